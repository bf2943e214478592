"""traces list|show|query|export: choices, formats, hostile text, read-only SQL."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from synth_ray.cli.main import cli
from synth_ray.core.errors import ConfigError, DeadlineError, NotFoundError, SynthRayError
from synth_ray.core.types import Message, Provenance, Reply, RewardParts, Rollout, StepFacts, StopReason, Turn
from synth_ray.records.recorded import choose, find_recorded, newest_trace_db
from synth_ray.records.rollout_rows import to_json
from synth_ray.records.rollout_schema import RolloutRow, TurnRow, rollout_from_row, rollout_row
from synth_ray.records.trace_export import export
from synth_ray.records.trace_json import SCHEMA_URL, iso_utc, json_line, otlp_line, rollout_json
from synth_ray.records.trace_query import ask
from synth_ray.records.traces import TraceDB

HOSTILE = "say\x1b]0;owned\x07 \x1b[2Jhi\x9b31m\u202eback\r\u2028\nnext"
CALLS = [{"id": "c1", "type": "function", "function": {"name": "interact_many", "arguments": '{"actions": ["do"]}'}}]


def turn(index: int, **changes: Any) -> Turn:
    one = Turn(
        index=index,
        messages=(Message("system", "play"), Message("user", f"see {HOSTILE}", images=("data:image/png;base64,AA==",))),
        reply=Reply(
            HOSTILE, {"reasoning": "because\x1b[1m", "tool_calls": CALLS}, (1, 2), (3,), (-0.25,), "stop", "run@3", "ab"
        ),
        facts=StepFacts(("do", "noop"), ("collect_wood",), {"wood": 1}, {}, 2, 0.9, False, "cut\x1b[0m"),
        reward=RewardParts({"collect_wood": 1.0, "penalty": -0.25}),
        sample_ms=12.5,
        env_ms=0.5,
    )
    return replace(one, **changes)


def rollout(rollout_id: str, outcome: float = 1.0, **changes: Any) -> Rollout:
    one = Rollout(
        rollout_id=rollout_id,
        run_id="run",
        task="grpo-crafter",
        seed=7,
        model="tiny\x1b[5m",
        provenance=Provenance.REMOTE,
        turns=(turn(0), turn(1, reward=RewardParts())),
        outcome=outcome,
        achievements=("collect_wood",),
        stop_reason=StopReason.TURNS,
        started_at="2026-11-22T01:30:00+01:00",
        duration_ms=30.0,
        env_config={"length": 5},
    )
    return replace(one, **changes)


ROLLOUTS = [
    rollout("aa11", 1.0),
    rollout("aa22", 3.0, seed=8, model="big"),
    rollout("bb33", 0.0, seed=9, stop_reason=StopReason.ERROR, error="lost\x1b[0m", turns=()),
    rollout("cc44", 3.0, seed=8),
]


@pytest.fixture
def db(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYNTH_RAY_HOME", str(tmp_path))
    path = tmp_path / "traces" / "t.db"
    with TraceDB(path) as traces:
        traces.add(ROLLOUTS, {"split": "train"})
    return path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["traces", *arguments], catch_exceptions=True)


def refused(*arguments: str) -> SynthRayError:
    result = call(*arguments)
    assert isinstance(result.exception, SynthRayError), result.output
    return result.exception


def steering(text: str) -> set[str]:
    return {
        char
        for char in text
        if (ord(char) < 32 and char not in "\n\t") or 127 <= ord(char) < 160 or char in "\u202e\u2028"
    }


def test_list_filters_and_is_newest_first(db: Path) -> None:
    def ids(*arguments: str) -> list[str]:
        return [one["rollout_id"] for one in json.loads(call("list", "--json", *arguments).stdout)["data"]]

    assert ids() == ["cc44", "bb33", "aa22", "aa11"]
    assert ids("--limit", "2") == ["cc44", "bb33"]
    assert ids("--min-outcome", "3", "--model", "big") == ["aa22"]
    assert ids("--seeds", "8-9") == ["cc44", "bb33", "aa22"]
    table = call("list")
    assert "aa22" in table.stdout
    assert "4 rollouts" in table.stderr
    assert steering(table.stdout) == set()
    assert refused("list", "--seeds", "x").exit_code == 2


def test_show_tells_everything_and_steers_no_terminal(db: Path) -> None:
    shown = call("show", "aa1").stdout
    for words in (
        "play",
        "because",
        "interact_many",
        "do noop",
        "0.75 = 1 collect_wood + -0.25 penalty",
        "cut",
        "hi31mback",
    ):
        assert words in shown
    assert "unlocked:   collect_wood" in shown
    assert steering(shown) == set()
    assert "lost[0m" in call("show", "bb33").stdout
    as_json = call("show", "aa1", "--json").stdout
    assert steering(as_json) == set()
    assert json.loads(as_json)["data"]["turns"][0]["reply"]["text"] == HOSTILE


def test_a_rollout_by_its_names(db: Path) -> None:
    outcomes = [(one.rollout_id, one.outcome) for one in ROLLOUTS]
    chosen = {name: choose(name, outcomes, "there") for name in ("best", "worst", "last", "cc44", "b")}
    assert chosen == {"best": "aa22", "worst": "bb33", "last": "cc44", "cc44": "cc44", "b": "bb33"}
    assert choose("best", [*outcomes, ("best", 0.0)], "there") == "best"
    with pytest.raises(ConfigError, match=r"2 rollouts in there begin with 'a': aa11, aa22"):
        choose("a", outcomes, "there")
    with pytest.raises(NotFoundError) as caught:
        choose("aa12", outcomes, "there")
    assert "did you mean 'aa11'?" in caught.value.hint or "did you mean 'aa22'?" in caught.value.hint
    with pytest.raises(NotFoundError, match="there holds no rollouts"):
        choose("best", [], "there")


def test_without_a_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTH_RAY_HOME", str(tmp_path))
    for arguments in (["list"], ["show"], ["query", "SELECT 1"], ["export", "--out", "x"]):
        error = refused(*arguments)
        assert (error.exit_code, error.kind) == (4, "not_found")
        assert "no trace database" in error.message


def test_the_newest_database_is_taken(db: Path) -> None:
    older = db.with_name("older.db")
    TraceDB(older).close()
    os.utime(older, (1, 1))
    assert newest_trace_db(db.parent) == db


def test_query_answers_and_changes_nothing(db: Path, tmp_path: Path) -> None:
    before = db.read_bytes()
    answer = json.loads(call("query", "SELECT seed, count(*) AS n FROM sessions GROUP BY seed", "--json").stdout)[
        "data"
    ]
    assert answer == {"columns": ["seed", "n"], "rows": [[7, 1], [8, 2], [9, 1]], "cut": False}
    assert ask(db, "SELECT prompt_ids FROM turns LIMIT 1", 5, 5).rows == (("0100000002000000",),)
    assert ask(
        db, "WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n LIMIT 9) SELECT x FROM n", 4, 5
    ).cut
    assert (
        steering(call("query", "SELECT reply_text, model FROM turns JOIN sessions USING (rollout_id)").stdout) == set()
    )
    for sql in (
        "DELETE FROM sessions",
        "UPDATE sessions SET seed = 1",
        "DROP TABLE turns",
        f"ATTACH DATABASE '{tmp_path / 'new.db'}' AS other",
        "PRAGMA journal_mode=WAL",
        "CREATE TEMP TABLE t (x)",
        "SELECT 1; DELETE FROM sessions",
        "SELECT nothing FROM sessions",
        "SELEC 1",
        "SELECT load_extension('x')",
        "",
    ):
        error = refused("query", sql) if sql else None
        assert sql == "" or (error and error.exit_code == 2), sql
    assert db.read_bytes() == before
    assert not (tmp_path / "new.db").exists()


def test_a_query_has_a_time_limit(db: Path) -> None:
    started = time.monotonic()
    with pytest.raises(DeadlineError, match=r"within 0\.2 s") as caught:
        ask(db, "WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n", 5, 0.2)
    assert caught.value.exit_code == 124
    assert time.monotonic() - started < 30


def test_jsonl_keeps_everything(db: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "t.jsonl"
    assert call("export", "--format", "jsonl", "--out", str(out)).exit_code == 0
    lines = out.read_text(encoding="utf-8").splitlines()
    assert lines == [json_line(one) for one in ROLLOUTS[::-1]]
    for line, one in zip(lines, ROLLOUTS[::-1], strict=True):
        expected = {**asdict(one), "started_at": "2026-11-22T00:30:00.000000Z"}
        assert json.loads(line) == json.loads(to_json(expected))
        assert line.isascii()
    infinite = rollout("x", turns=(turn(0, reply=Reply("", logprobs=(float("-inf"), -1.0))),))
    assert rollout_json(infinite)["turns"][0]["reply"]["logprobs"] == [None, -1.0]


def test_parquet_round_trip(db: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.parquet"
    answer = json.loads(call("export", "--out", str(out), "--min-outcome", "1", "--json").stdout)["data"]
    assert (answer["rollouts"], answer["format"]) == (3, "parquet")
    kept = [one for one in ROLLOUTS[::-1] if one.outcome >= 1]
    rows = [_row(values) for values in pq.read_table(out).to_pylist()]
    assert [_listed(asdict(row)) for row in rows] == [_listed(asdict(rollout_row(one))) for one in kept]
    back = rollout_from_row(rows[0])
    assert [one.facts for one in back.turns] == [one.facts for one in kept[0].turns]
    assert [one.messages for one in back.turns] == [one.messages for one in kept[0].turns]
    assert back.turns[0].reply == kept[0].turns[0].reply
    assert (back.seed, back.env_config, back.task, back.achievements) == (
        8,
        {"length": 5},
        "grpo-crafter",
        ("collect_wood",),
    )


def _row(values: dict[str, Any]) -> RolloutRow:
    turns = tuple(TurnRow(**one) for one in values["turns"])
    return RolloutRow(**{**values, "reward_components": dict(values["reward_components"]), "turns": turns})


def _listed(value: Any) -> Any:
    """Tuples as the lists that Parquet gives back."""
    if isinstance(value, dict):
        return {name: _listed(one) for name, one in value.items()}
    return [_listed(one) for one in value] if isinstance(value, list | tuple) else value


def test_otlp_follows_the_conventions(db: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.otlp.jsonl"
    assert call("export", "--format", "otlp-json", "--out", str(out)).exit_code == 0
    lines = out.read_text(encoding="utf-8").splitlines()
    assert lines == [otlp_line(one) for one in ROLLOUTS[::-1]]
    scope = json.loads(lines[-1])["resourceSpans"][0]["scopeSpans"][0]
    assert scope["schemaUrl"] == SCHEMA_URL
    agent, *others = scope["spans"]
    assert [span["name"] for span in others] == ["chat tiny\x1b[5m", "execute_tool interact_many"] * 2
    assert agent["name"] == "invoke_agent grpo-crafter"
    assert {span["parentSpanId"] for span in others} == {agent["spanId"]}
    assert len({span["spanId"] for span in scope["spans"]}) == 5
    assert {len(span["spanId"]) for span in scope["spans"]} == {16}
    assert {span["traceId"] for span in scope["spans"]} == {agent["traceId"]}
    assert len(agent["traceId"]) == 32
    started = int(datetime(2026, 11, 22, 0, 30, tzinfo=UTC).timestamp()) * 10**9
    times = [
        (int(span["startTimeUnixNano"]) - started, int(span["endTimeUnixNano"]) - started) for span in scope["spans"]
    ]
    assert times[:3] == [(0, 30_000_000), (0, 12_500_000), (12_500_000, 13_000_000)]
    chat = {one["key"]: one["value"] for one in others[0]["attributes"]}
    assert chat["gen_ai.operation.name"] == {"stringValue": "chat"}
    assert chat["gen_ai.usage.input_tokens"] == {"intValue": "2"}
    assert chat["gen_ai.response.finish_reasons"] == {"arrayValue": {"values": [{"stringValue": "stop"}]}}
    scores = {
        event["attributes"][0]["value"]["stringValue"]: event["attributes"][1]["value"]["doubleValue"]
        for event in others[0]["events"]
    }
    assert scores == {"collect_wood": 1.0, "penalty": -0.25}
    failed = json.loads(lines[1])["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    assert failed["status"] == {"code": 2, "message": "lost\x1b[0m"}


def test_what_json_lacks_is_null_in_an_answer(db: Path) -> None:
    shown = call("query", "SELECT 9e999, -9e999, 1.5, x'ab'", "--json").stdout
    assert json.loads(shown, parse_constant=pytest.fail)["data"]["rows"] == [[None, None, 1.5, "ab"]]


def test_content_is_left_out_unless_asked_for() -> None:
    plain, full = otlp_line(ROLLOUTS[0]), otlp_line(ROLLOUTS[0], content=True)
    assert "owned" not in plain
    assert "owned" in full
    assert "gen_ai.output.messages" in full


def test_equal_traces_give_equal_bytes_and_failures_leave_nothing(tmp_path: Path) -> None:
    for name in ("parquet", "jsonl", "otlp-json"):
        for copy in ("a", "b"):
            export(iter(ROLLOUTS), name, tmp_path / f"{copy}.{name}")
        assert (tmp_path / f"a.{name}").read_bytes() == (tmp_path / f"b.{name}").read_bytes()

    def torn() -> Any:
        yield ROLLOUTS[0]
        raise RuntimeError

    before = sorted(tmp_path.iterdir())
    for name in ("parquet", "jsonl"):
        with pytest.raises(RuntimeError):
            export(torn(), name, tmp_path / "torn")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("given", "instant"),
    [
        ("2026-11-22T01:30:00Z", "2026-11-22T01:30:00.000000Z"),
        ("2026-11-22 01:30", "2026-11-22T01:30:00.000000Z"),
        ("?", "?"),
    ],
)
def test_times_are_utc(given: str, instant: str) -> None:
    assert iso_utc(given) == instant


def test_both_sources_at_once_are_refused(db: Path) -> None:
    from synth_ray.core.paths import find_home

    with pytest.raises(ConfigError, match="not both"):
        find_recorded(find_home(), "best", db, "run")
