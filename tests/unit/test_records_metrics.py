from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synth_ray.core.errors import CorruptError, StorageError
from synth_ray.core.hashing import sha256_text
from synth_ray.records.metrics import MetricsLog, last_by_step, read_metrics


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "run" / "metrics.jsonl") as log:
        written = [log.append(step, {"reward/mean": step / 2, "note": "ü", "ok": True, "n": 3}) for step in range(3)]
        assert list(read_metrics(log.path)) == written  # without closing: every line is flushed
    assert written[1]["reward/mean"] == 0.5
    assert written[1]["t"].endswith("Z")
    assert list(read_metrics(tmp_path / "nothing.jsonl")) == []


def test_what_is_not_finite_is_null_and_named(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "m.jsonl") as log:
        log.append(1, {"loss": math.nan, "grad": -math.inf, "lr": np.float32(0.5), "none": None})
    text = (tmp_path / "m.jsonl").read_text()
    row = json.loads(text, parse_constant=pytest.fail)
    assert (row["loss"], row["grad"], row["lr"], row["none"]) == (None, None, 0.5, None)
    assert row["non_finite"] == ["grad", "loss"]


def test_reserved_names_are_refused(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "m.jsonl") as log, pytest.raises(ValueError, match="step, t"):
        log.append(1, {"step": 2, "t": 0})


def test_a_torn_last_line_is_ignored_then_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    with MetricsLog(path) as log:
        first = log.append(1, {"x": 1})
        log.append(2, {"x": "ü" * 3000})
    whole = path.read_bytes()
    start = whole.index(b"\n") + 1
    for end in [*range(start, start + 70), len(whole) - 5000, len(whole) - 1]:
        path.write_bytes(whole[:end])
        assert list(read_metrics(path)) == [first]
    with MetricsLog(path) as log:
        third = log.append(3, {"x": 3})
    assert list(read_metrics(path)) == [first, third]


def test_a_file_of_one_torn_line_is_emptied(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_bytes(b'{"step": 1')
    MetricsLog(tmp_path / "m.jsonl").close()
    assert (tmp_path / "m.jsonl").read_bytes() == b""


@pytest.mark.parametrize("line", ["not json", "[]", "{}", '{"step": "a"}'])
def test_damage_in_the_middle_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "m.jsonl").write_text(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n')
    with pytest.raises(CorruptError, match="line 2"):
        list(read_metrics(tmp_path / "m.jsonl"))


def test_the_last_row_of_a_step_counts(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "m.jsonl") as log:
        for step, value in ((2, 1.0), (1, 2.0), (2, 3.0)):
            log.append(step, {"x": value})
    assert {step: row["x"] for step, row in last_by_step(tmp_path / "m.jsonl").items()} == {1: 2.0, 2: 3.0}


def test_a_full_disk_keeps_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def fail(descriptor: int, data: bytes) -> int:
        if len(data) > 10:
            return write(descriptor, data[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with MetricsLog(tmp_path / "m.jsonl") as log:
        first = log.append(1, {"x": 1})
        with monkeypatch.context() as patch, pytest.raises(StorageError) as caught:
            patch.setattr(os, "write", fail)
            log.append(2, {"x": "y" * 5})
        assert caught.value.exit_code == 74
        third = log.append(3, {"x": 3})
    assert list(read_metrics(tmp_path / "m.jsonl")) == [first, third]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(min_size=4, max_size=6), st.floats() | st.text(max_size=4) | st.booleans(), max_size=4))
def test_any_values_come_back(tmp_path: Path, values: dict[str, Any]) -> None:
    path = tmp_path / sha256_text(repr(values))[:12]
    with MetricsLog(path) as log:
        row = log.append(0, values)
    assert [row] == list(read_metrics(path))
    for key, value in values.items():
        finite = not isinstance(value, float) or math.isfinite(value)
        assert row[key] == value if finite else row[key] is None and key in row["non_finite"]
