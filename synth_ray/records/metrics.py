"""The metrics log: one JSON object per line, flushed as it is written, readable after a kill at any byte."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self, SupportsFloat

from synth_ray.core.errors import CorruptError
from synth_ray.records.clock import utc_now
from synth_ray.records.disk import storage_errors

Value = SupportsFloat | str | None
_TAIL_BYTES = 4096
_RESERVED = frozenset({"step", "t", "non_finite"})


class MetricsLog:
    """Appends to ``metrics.jsonl``; one writer at a time. A torn last line of a killed writer is cut off first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            _cut_torn_line(self._descriptor)

    def append(self, step: int, values: Mapping[str, Value]) -> dict[str, Any]:
        """Writes ``{"step": ..., "t": ..., **values}`` as one line and returns it.

        A number that is not finite becomes null and its key is listed under ``non_finite``. Raises ValueError for the
        reserved keys step, t and non_finite; StorageError if the disk is full, and the log then ends at a whole line.
        """
        clashes = sorted(_RESERVED & values.keys())
        if clashes:
            raise ValueError(f"metrics cannot be called {', '.join(clashes)}")
        row = _row(step, values)
        with storage_errors(self.path):
            _write_line(self._descriptor, (json.dumps(row, allow_nan=False) + "\n").encode())
        return row

    def close(self) -> None:
        """Closes the file."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a metrics log in the order written; none if it is missing. A torn last line is left out.

    Raises CorruptError that names the line for damage anywhere else.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.endswith(b"\n"):
                yield _parsed(path, number, line)


def last_row(path: Path) -> dict[str, Any] | None:
    """The newest whole row, None if there is none; reads the end of the file only."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        lines = file.read().split(b"\n")[:-1]
    try:
        return _parsed(path, 0, lines[-1]) if lines else None
    except CorruptError:  # the tail begins inside a long row
        return None


def last_by_step(path: Path) -> dict[int, dict[str, Any]]:
    """The last row of every step, by step: a resumed run may write a step again."""
    rows = {row["step"]: row for row in read_metrics(path)}
    return dict(sorted(rows.items()))


def _row(step: int, values: Mapping[str, Value]) -> dict[str, Any]:
    plain = {key: _plain(value) for key, value in values.items()}
    bad = sorted(key for key, value in plain.items() if isinstance(value, float) and not math.isfinite(value))
    row = {"step": int(step), "t": utc_now(), **plain, **dict.fromkeys(bad)}
    return {**row, "non_finite": bad} if bad else row


def _plain(value: Value) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    return float(value)


def _write_line(descriptor: int, line: bytes) -> None:
    start = os.lseek(descriptor, 0, os.SEEK_END)
    try:
        written = 0
        while written < len(line):
            written += os.write(descriptor, line[written:])
    except OSError:
        os.ftruncate(descriptor, start)
        raise


def _cut_torn_line(descriptor: int) -> None:
    end = os.lseek(descriptor, 0, os.SEEK_END)
    tail = b""
    while end and b"\n" not in tail:
        size = min(4096, end)
        end -= size
        tail = os.pread(descriptor, size, end) + tail
    keep = end + tail.rfind(b"\n") + 1
    if keep < end + len(tail):
        os.ftruncate(descriptor, keep)


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        raise CorruptError(f"{path}, line {number}, is not a metrics row", "remove that line", path=str(path))
    return row
