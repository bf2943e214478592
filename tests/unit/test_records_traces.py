from __future__ import annotations

import math
import sqlite3
import struct
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synth_ray.core.errors import CorruptError, NotFoundError, StorageError
from synth_ray.core.types import Message, Provenance, Reply, RewardParts, Rollout, StepFacts, StopReason, Turn
from synth_ray.records.traces import Added, SessionQuery, TraceDB

TURN = Turn(
    index=0,
    messages=(Message("system", "play"), Message("user", "you see a tree", {"name": "world"})),
    reply=Reply(
        text="<think>wood</think> collect",
        extra={"tool_calls": [{"id": "c1", "function": {"name": "act", "arguments": '{"n": 1}'}}]},
        prompt_ids=(1, 2, 151_000),
        token_ids=(7, 8),
        logprobs=(-0.1, -2.5),
        weights_name="run@3",
        weights_digest="ab" * 32,
        usage={"prompt_tokens": 3},
    ),
    facts=StepFacts(("collect",), ("collect_wood",), {"wood": 1}, {"steps": 2}, 1, 0.5, True, None),
    reward=RewardParts({"achievement": 1.0}),
    sample_ms=12.5,
    env_ms=0.25,
)


def rollout(rollout_id: str = "r1", **changes: Any) -> Rollout:
    base = Rollout(
        rollout_id=rollout_id,
        run_id="run",
        task="crafter",
        seed=5,
        model="crafter-tiny",
        provenance=Provenance.ENGINE,
        turns=(TURN, replace(TURN, index=1)),
        outcome=1.0,
        achievements=("collect_wood",),
        stop_reason=StopReason.TURNS,
        started_at="2026-11-22T01:30:00Z",
        duration_ms=30.0,
        step=3,
        group=1,
        index=2,
    )
    return replace(base, **changes)


texts = st.text(max_size=8)
finite = st.floats(allow_nan=False, allow_infinity=False)
ids = st.lists(st.integers(0, 2**31 - 1), max_size=4).map(tuple)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | texts, lambda one: st.lists(one, max_size=2)
)
extras = st.dictionaries(texts, json_values, max_size=2)
counts = st.dictionaries(texts, st.integers(-9, 9), max_size=2)
names = st.lists(texts, max_size=2).map(tuple)
messages = st.builds(Message, texts, texts, extras, names)
replies = st.builds(
    Reply,
    texts,
    extras,
    ids,
    ids,
    st.lists(st.floats(allow_nan=False), max_size=3).map(tuple),
    texts,
    texts,
    texts,
    counts,
)
facts = st.builds(StepFacts, names, names, counts, counts, st.integers(0, 9), finite, st.booleans(), st.none() | texts)
rewards = st.builds(RewardParts, st.dictionaries(texts, finite, max_size=2))
turns = st.builds(Turn, st.just(0), st.lists(messages, max_size=2).map(tuple), replies, facts, rewards, finite, finite)
rollouts = st.builds(
    Rollout,
    rollout_id=st.just(""),
    run_id=texts,
    task=texts,
    seed=st.integers(-(2**63), 2**63 - 1),
    model=texts,
    provenance=st.sampled_from(Provenance),
    turns=st.lists(turns, max_size=3).map(lambda many: tuple(replace(one, index=at) for at, one in enumerate(many))),
    outcome=finite,
    achievements=names,
    stop_reason=st.sampled_from(StopReason),
    started_at=texts,
    duration_ms=finite,
    step=st.integers(-1, 9),
    group=st.integers(-1, 9),
    index=st.integers(0, 9),
    error=st.none() | texts,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rollouts)
def test_a_rollout_read_back_equals_the_one_written(tmp_path: Path, one: Rollout) -> None:
    one = replace(one, rollout_id=uuid4().hex)
    with TraceDB(tmp_path / "t.db", check=False) as traces:
        assert traces.add([one]) == Added(1, 0)
        assert traces.load(one.rollout_id) == one


def test_adding_again_is_ignored_and_counted(tmp_path: Path) -> None:
    with TraceDB(tmp_path / "t.db") as traces:
        assert traces.add([rollout("a"), rollout("b"), rollout("a")]) == Added(2, 1)
        assert traces.add([rollout("b", outcome=9.0), rollout("c")]) == Added(1, 1)
        assert traces.load("b").outcome == 1.0
        assert (session := traces.session("b")) and (session.rollout_id, session.outcome) == ("b", 1.0)
        assert traces.session("nobody") is None
        assert traces.count() == 3


def test_metadata_may_be_added_later(tmp_path: Path) -> None:
    with TraceDB(tmp_path / "t.db") as traces:
        traces.add([rollout("a"), rollout("b")], {"split": "test"}, {"a": {"score": None}})
        traces.annotate("a", {"score": 0.5, "why": "so"})
        found = {one.rollout_id: one.metadata for one in traces.sessions()}
        assert found == {"a": {"split": "test", "score": 0.5, "why": "so"}, "b": {"split": "test"}}
        assert traces.load("a") == rollout("a")
        with pytest.raises(NotFoundError, match="no rollout 'c'"):
            traces.annotate("c", {})


def test_a_batch_is_added_whole_or_not_at_all(tmp_path: Path) -> None:
    with TraceDB(tmp_path / "t.db") as traces:
        for bad in (
            rollout("b", outcome=math.nan),
            rollout("b", turns=(replace(TURN, reward=RewardParts({"x": math.inf})),)),
        ):
            with pytest.raises(CorruptError, match="rollout b cannot be stored"):
                traces.add([rollout("a"), bad])
        assert traces.count() == 0


def test_what_is_not_unicode_is_stored_replaced(tmp_path: Path) -> None:
    odd = {"text": "a\ud800b", "extra": {"x": "\udc00"}, "weights_name": "m\ud800", "finish_reason": "\udfff"}
    lone = replace(TURN, reply=replace(TURN.reply, **odd))
    with TraceDB(tmp_path / "t.db") as traces:
        traces.add([rollout("a", turns=(lone,), error="\ud83d\ude00 \ud800")])
        loaded = traces.load("a")
    assert loaded.turns[0].reply.text == "a\ufffdb"
    assert loaded.turns[0].reply.extra == {"x": "\ufffd"}
    assert (loaded.turns[0].reply.weights_name, loaded.turns[0].reply.finish_reason) == ("m\ufffd", "\ufffd")
    assert loaded.error == "\U0001f600 \ufffd"


def test_an_unknown_rollout_is_not_found(tmp_path: Path) -> None:
    with TraceDB(tmp_path / "t.db") as traces, pytest.raises(NotFoundError):
        traces.load("nobody")


def test_sessions_stream_in_every_order_across_pages(tmp_path: Path) -> None:
    many = [rollout(f"r{at:04d}", seed=(at * 7) % 10, outcome=at % 4, model=f"m{at % 3}") for at in range(600)]
    with TraceDB(tmp_path / "t.db") as traces:
        traces.add(many, {"split": "train"})

        def found(**query: Any) -> list[str]:
            return [session.rollout_id for session in traces.sessions(SessionQuery(**query))]

        in_order = [one.rollout_id for one in many]
        assert found() == in_order
        assert found(order="newest") == in_order[::-1]
        assert found(order="newest", limit=300) == in_order[::-1][:300]
        by_seed = sorted(many, key=lambda one: (one.seed, one.rollout_id))
        assert found(order="seed") == [one.rollout_id for one in by_seed]
        assert found(limit=0) == []
        assert found(models=["m1", "x"], seeds=[0, 3], min_outcome=1, max_outcome=2) == [
            one.rollout_id for one in many if one.model == "m1" and one.seed in (0, 3) and 1 <= one.outcome <= 2
        ]
        assert found(run_id="other") == found(step=4) == found(tasks=["mine"]) == []
        assert [one.rollout_id for one in traces.rollouts(SessionQuery(limit=258))] == in_order[:258]
        first = next(traces.sessions())
        assert first.metadata == {"split": "train"}
        assert (first.step, first.group, first.index, first.n_turns) == (3, 1, 2, 2)


def test_a_slow_reader_does_not_keep_a_writer_out(tmp_path: Path) -> None:
    with TraceDB(tmp_path / "t.db") as writer, TraceDB(tmp_path / "t.db", read_only=True) as reader:
        writer.add([rollout(f"r{at:04d}") for at in range(300)])
        reading = reader.sessions()
        next(reading)
        writer.add([rollout("late")])
        assert len(list(reading)) == 300


def test_threads_share_one_database(tmp_path: Path) -> None:
    with TraceDB(tmp_path / "t.db") as traces:
        threads = [
            threading.Thread(target=lambda t=t: [traces.add([rollout(f"{t}-{at}")]) for at in range(5)])
            for t in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert traces.count() == 20


def test_a_reader_cannot_write_or_create(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        TraceDB(tmp_path / "t.db", read_only=True)
    assert list(tmp_path.iterdir()) == []
    TraceDB(tmp_path / "t.db").close()
    with TraceDB(tmp_path / "t.db", read_only=True) as reader, pytest.raises(StorageError):
        reader.add([rollout()])


def test_the_file_follows_the_rules(tmp_path: Path) -> None:
    path = tmp_path / "private" / "t.db"
    with TraceDB(path) as traces:
        traces.add([rollout()])
        pragmas = {name: traces._database.rows(f"PRAGMA {name}")[0][0] for name in ("journal_mode", "synchronous")}
        assert pragmas == {"journal_mode": "truncate", "synchronous": 2}
        assert traces._database.rows("PRAGMA foreign_keys")[0][0] == 1
        assert traces._database.rows("PRAGMA busy_timeout")[0][0] == 30_000
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    with sqlite3.connect(path) as plain:
        assert plain.execute("PRAGMA user_version").fetchone() == (1,)
        blob, logprobs = plain.execute("SELECT prompt_ids, logprobs FROM turns").fetchone()
    assert blob == struct.pack("<3i", 1, 2, 151_000)
    assert logprobs == struct.pack("<2d", -0.1, -2.5)


def test_a_missing_turn_is_damage(tmp_path: Path) -> None:
    with TraceDB(tmp_path / "t.db") as traces:
        traces.add([rollout("a"), rollout("b")])
    with sqlite3.connect(tmp_path / "t.db") as plain:
        plain.execute("DELETE FROM turns WHERE rollout_id = 'a' AND turn = 1")
        plain.execute("UPDATE turns SET facts = '{' WHERE rollout_id = 'b'")
    with TraceDB(tmp_path / "t.db") as traces:
        for rollout_id in ("a", "b"):
            with pytest.raises(CorruptError, match=f"rollout {rollout_id} "):
                traces.load(rollout_id)
