from __future__ import annotations

import errno
import json
import os
import random
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synth_ray.core.errors import CorruptError, NotFoundError, StorageError
from synth_ray.core.types import Message, Provenance, Reply, RewardParts, Rollout, StepFacts, StopReason, Turn
from synth_ray.records.rollouts import mean_reward, read_rollouts, rollouts_path, write_rollouts

REPLY = Reply("go", {"tool_calls": []}, (1, 2, 3), (4, 5), (-0.5, -1.25), "stop", "run@3", "ab")
FACTS = StepFacts(("up", "collect"), ("collect_wood",), env_steps=2)


def turn(index: int, **changes: Any) -> Turn:
    reward = RewardParts({"achievement": 1.0, "invalid": -0.5})
    return replace(Turn(index, (Message("user", "see"),), REPLY, FACTS, reward, 1.0, 2.0), **changes)


def rollout(rollout_id: str = "r1", **changes: Any) -> Rollout:
    base = Rollout(
        rollout_id=rollout_id,
        run_id="run",
        task="crafter",
        seed=2**40,
        model="crafter-tiny",
        provenance=Provenance.ENGINE,
        turns=(turn(0), turn(1, facts=StepFacts((), problem="no action"))),
        outcome=1.5,
        achievements=("collect_wood",),
        stop_reason=StopReason.TURNS,
        started_at="2026-11-22T01:30:00+01:00",
        duration_ms=30.4,
        step=3,
        group=7,
        index=1,
    )
    return replace(base, **changes)


def test_every_column_says_what_happened(tmp_path: Path) -> None:
    path = write_rollouts(tmp_path, 3, [rollout()], {"r1": [0.5, -0.25]}, "cfg")
    assert path == tmp_path / "step=000003.parquet" == rollouts_path(tmp_path, 3)
    (row,) = read_rollouts(path)
    assert (row.trajectory_id, row.run_id, row.step, row.group_id, row.index_in_group) == ("r1", "run", 3, "7", 1)
    assert (row.seed, row.model, row.weights_name, row.weights_digest) == (2**40, "crafter-tiny", "run@3", "ab")
    assert (row.reward, row.reward_components) == (1.5, {"achievement": 2.0, "invalid": -1.0})
    assert (row.n_turns, row.n_env_steps, row.invalid_turns, row.achievements) == (2, 2, 1, ["collect_wood"])
    assert (row.input_tokens, row.output_tokens, row.duration_ms) == (6, 4, 30)
    assert (row.status, row.stop_reason, row.error) == ("truncated", "turns", None)
    assert row.started_at == datetime(2026, 11, 22, 0, 30, tzinfo=UTC)
    chats = json.loads(row.messages_json)
    assert chats[1] == [
        {"role": "user", "content": "see"},
        {"role": "assistant", "content": "go", "tool_calls": []},
    ]
    first, second = row.turns
    assert (first.prompt_token_ids, first.completion_token_ids, first.per_token_logps) == (
        [1, 2, 3],
        [4, 5],
        [-0.5, -1.25],
    )
    assert (first.advantage, second.advantage) == (0.5, -0.25)
    assert (first.reward, first.unlocked, first.actions) == (0.5, ["collect_wood"], ["up", "collect"])
    assert (first.problem, second.problem, second.turn, second.finish_reason) == (None, "no action", 1, "stop")


def test_the_files_say_what_they_are(tmp_path: Path) -> None:
    path = write_rollouts(tmp_path, 3, [rollout("b"), rollout("a")], config_sha256="cfg")
    for name, rows in ((path, 2), (tmp_path / "step=000003.turns.parquet", 4)):
        file = pq.ParquetFile(name)
        metadata = file.schema_arrow.metadata
        assert metadata[b"schema_version"] == b"1"
        assert metadata[b"producer"].startswith(b"synth-ray ")
        assert metadata[b"config_sha256"] == b"cfg"
        assert metadata[b"row_count"] == str(rows).encode()
        assert file.metadata.row_group(0).column(0).compression == "ZSTD"
        assert file.read(["trajectory_id"]).column(0).to_pylist() == sorted(["a", "b"] * (rows // 2))
    assert len(list(tmp_path.iterdir())) == 2


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    many = [rollout(f"r{at}", turns=(turn(0, reward=RewardParts({"b": 1.0, "a": 2.0})),)) for at in range(20)]
    other = [replace(one, turns=(turn(0, reward=RewardParts({"a": 2.0, "b": 1.0})),)) for one in many[::-1]]
    paths = [write_rollouts(tmp_path / str(at), 1, some) for at, some in enumerate((many, other))]
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (StopReason.DONE, "completed"),
        (StopReason.DEADLINE, "timeout"),
        (StopReason.ERROR, "error"),
        (StopReason.CANCELLED, "cancelled"),
    ],
)
def test_failures_are_kept_too(tmp_path: Path, reason: StopReason, status: str) -> None:
    failed = rollout(turns=(), stop_reason=reason, error="world \ud800", started_at="unknown", outcome=0.0)
    (row,) = read_rollouts(write_rollouts(tmp_path, 0, [failed]))
    assert (row.status, row.error, row.started_at, row.turns, row.weights_name) == (
        status,
        "world \ufffd",
        None,
        (),
        "",
    )


def test_remote_token_counts_come_from_usage(tmp_path: Path) -> None:
    remote = Reply("x", usage={"prompt_tokens": 11, "completion_tokens": 5})
    (row,) = read_rollouts(write_rollouts(tmp_path, 0, [rollout(turns=(turn(0, reply=remote),))]))
    assert (row.input_tokens, row.output_tokens) == (11, 5)


def test_advantages_must_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 turns but 1 advantages"):
        write_rollouts(tmp_path, 0, [rollout()], {"r1": [0.5]})
    with pytest.raises(ValueError, match="finite"):
        write_rollouts(tmp_path, 0, [rollout(outcome=float("nan"))])
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=6))
def test_the_batch_reward_is_recomputed_from_the_file(tmp_path: Path, outcomes: list[float]) -> None:
    path = write_rollouts(tmp_path, 0, [rollout(f"r{at}", outcome=one) for at, one in enumerate(outcomes)])
    assert mean_reward(path) == pytest.approx(sum(outcomes) / len(outcomes), abs=1e-12)
    assert [row.reward for row in read_rollouts(path)] == outcomes


def test_a_step_without_rollouts(tmp_path: Path) -> None:
    path = write_rollouts(tmp_path, 0, [])
    assert read_rollouts(path) == []
    with pytest.raises(CorruptError, match="no rollouts"):
        mean_reward(path)


def test_missing_files_are_not_found(tmp_path: Path) -> None:
    for read in (read_rollouts, mean_reward):
        with pytest.raises(NotFoundError):
            read(tmp_path / "step=000001.parquet")
    path = write_rollouts(tmp_path, 1, [rollout()])
    (tmp_path / "step=000001.turns.parquet").unlink()
    with pytest.raises(NotFoundError, match="turns"):
        read_rollouts(path)


def test_two_files_that_do_not_belong_together(tmp_path: Path) -> None:
    path = write_rollouts(tmp_path / "a", 1, [rollout()])
    write_rollouts(tmp_path / "b", 1, [rollout(outcome=2.0), rollout("r2")])
    (tmp_path / "b" / "step=000001.turns.parquet").replace(tmp_path / "a" / "step=000001.turns.parquet")
    with pytest.raises(CorruptError, match="does not belong") as caught:
        read_rollouts(path)
    assert "trace database" not in caught.value.hint  # never had rollouts of RL


def test_damage_is_found_or_harmless(tmp_path: Path) -> None:
    path = write_rollouts(tmp_path, 1, [rollout(f"r{at}", outcome=at) for at in range(20)])
    expected, whole, chance, refused = read_rollouts(path), path.read_bytes(), random.Random(5), 0
    for at in [*range(8), *(chance.randrange(len(whole)) for _ in range(60))]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        try:
            rows = read_rollouts(path)
            assert [row.reward for row in rows] == [row.reward for row in expected]
        except CorruptError as error:
            assert "step=000001" in error.message
            refused += 1
    assert refused > 20
    for end in (0, 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        for read in (read_rollouts, mean_reward):
            with pytest.raises(CorruptError, match="step=000001") as caught:
                read(path)
            assert caught.value.exit_code == 7


def test_a_full_disk_keeps_the_old_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = write_rollouts(tmp_path, 1, [rollout()])
    with monkeypatch.context() as patch, pytest.raises(StorageError):
        patch.setattr(os, "fsync", fail)
        write_rollouts(tmp_path, 1, [rollout(outcome=9.0)])
    assert mean_reward(path) == 1.5
    assert len(list(tmp_path.iterdir())) == 2
