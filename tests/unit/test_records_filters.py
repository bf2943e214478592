from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from synth_ray.core.errors import ConfigError, CorruptError, NotFoundError
from synth_ray.core.hashing import canonical_json, sha256_file
from synth_ray.core.types import Message, Provenance, Reply, RewardParts, Rollout, StepFacts, StopReason, Turn
from synth_ray.records.chat_formats import to_openai, to_trl
from synth_ray.records.filter_run import apply_filter, run_filter
from synth_ray.records.filters import FilterConfig, FilterResult, filter_rollouts
from synth_ray.records.sft_data import SftChat, meta_path, read_sft, write_sft
from synth_ray.records.traces import TraceDB

CALL = {"id": "c1", "type": "function", "function": {"name": "act", "arguments": '{"actions":["up"]}'}}


def turn(index: int, kind: str = "", problem: str | None = None, arguments: str = '{"actions":["up"]}') -> Turn:
    call = {**CALL, "function": {"name": "act", "arguments": arguments}}
    extra: dict[str, Any] = {"tool_calls": [call], "reasoning": "because"} | ({"kind": kind} if kind else {})
    messages = (Message("system", "play"), Message("user", f"turn {index}"))
    return Turn(index, messages, Reply("go", extra), StepFacts(("up",), problem=problem), RewardParts(), 1.0, 1.0)


def rollout(rollout_id: str = "r1", **changes: Any) -> Rollout:
    base = Rollout(
        rollout_id, "run", "crafter", 1, "teacher", Provenance.EXPERT, (turn(0), turn(1)), 3.0, ("wood", "sapling"),
        StopReason.TURNS, "", 1.0,
    )  # fmt: skip
    return replace(base, **changes)


def config(**changes: Any) -> FilterConfig:
    return FilterConfig(**{"db": "t.db", "output": "o.jsonl", **changes})


def test_one_line_per_turn() -> None:
    result = filter_rollouts([rollout(turns=(turn(0, kind="expert"),))], config())
    assert result.examples == (
        {
            "messages": [
                {"role": "system", "content": "play"},
                {"role": "user", "content": "turn 0"},
                {"role": "assistant", "content": "go", "tool_calls": [CALL], "reasoning_content": "because"},
            ],
            "metadata": {
                "rollout_id": "r1",
                "turn": 0,
                "seed": 1,
                "reward": 3.0,
                "model": "teacher",
                "achievements": ["wood", "sapling"],
                "kind": "expert",
            },
        },
    )


@pytest.mark.parametrize(
    ("rule", "changes", "bad"),
    [
        ("min_official_score", {"min_official_score": 2.0}, {"outcome": 1.9}),
        ("max_official_score", {"max_official_score": 3.0}, {"outcome": 3.1}),
        ("models", {"models": ["teacher"]}, {"model": "other"}),
        ("task_ids", {"task_ids": ["crafter"]}, {"task": "other"}),
        ("required_achievements", {"required_achievements": ["wood", "sapling"]}, {"achievements": ("wood",)}),
        ("max_invalid_turns", {"max_invalid_turns": 0}, {"turns": (turn(0, problem="what?"),)}),
    ],
)
def test_every_rule_drops_what_breaks_it(rule: str, changes: dict[str, Any], bad: dict[str, Any]) -> None:
    result = filter_rollouts([rollout("good"), rollout("bad", **bad)], config(**changes))
    assert {line["metadata"]["rollout_id"] for line in result.examples} == {"good"}
    assert result.report.dropped == {rule: 1}
    with pytest.raises(NotFoundError, match="none of the 1") as caught:
        filter_rollouts([rollout("bad", **bad)], config(**changes))
    assert rule in caught.value.hint
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("ended", [StopReason.ERROR, StopReason.DEADLINE, StopReason.CANCELLED])
def test_unfinished_episodes_are_dropped_unless_they_shall_stay(ended: StopReason) -> None:
    failed = rollout("failed", stop_reason=ended, error="no answer", group=1)
    result = filter_rollouts([rollout("good"), failed], config())
    assert ids_of(result) == ["good"]
    assert result.report.dropped == {"unfinished": 1}
    kept = filter_rollouts([rollout("good"), failed], config(keep_unfinished=True))
    assert ids_of(kept) == ["good", "failed"]
    assert kept.report.dropped == {}
    with pytest.raises(NotFoundError) as caught:
        filter_rollouts([failed], config())
    assert "unfinished" in caught.value.hint


def test_of_several_attempts_the_one_that_ended_regularly_counts() -> None:
    def attempt(name: str, group: int, stop: StopReason, at: str = "2026-01-01") -> Rollout:
        return rollout(name, group=group, stop_reason=stop, started_at=at)

    episodes = [
        attempt("a1", 0, StopReason.ERROR),
        attempt("a2", 0, StopReason.DONE),
        attempt("b2", 1, StopReason.DEADLINE, "2026-01-02"),
        attempt("b1", 1, StopReason.ERROR),
        attempt("c1", 2, StopReason.ERROR),
        replace(attempt("d1", 2, StopReason.ERROR), run_id="another"),
    ]
    assert filter_rollouts(episodes, config()).report.dropped == {"unfinished": 5}
    result = filter_rollouts(episodes, config(keep_unfinished=True))
    assert ids_of(result) == ["a2", "b2", "c1", "d1"]
    assert result.report.dropped == {"played_again": 2}
    low = [episodes[0], replace(episodes[1], outcome=0.0), episodes[4]]
    result = filter_rollouts(low, config(keep_unfinished=True, min_official_score=1.0))
    assert (ids_of(result), result.report.dropped) == (["c1"], {"min_official_score": 1, "played_again": 1})


def ids_of(result: FilterResult) -> list[str]:
    return list(dict.fromkeys(line["metadata"]["rollout_id"] for line in result.examples))


TOOLS = [{"type": "function", "function": {"name": "act", "parameters": {"type": "object", "properties": {}}}}]


@pytest.mark.parametrize("format_name", ["openai", "trl"])
def test_tools_are_beside_the_replies_that_call_them(tmp_path: Path, format_name: str) -> None:
    text = Turn(1, turn(1).messages, Reply("go"), StepFacts(("up",)), RewardParts(), 1.0, 1.0)
    with TraceDB(tmp_path / "t.db") as traces:
        traces.add([rollout("a", turns=(turn(0), text))], {"split": "train", "tools": TOOLS})
        traces.add([rollout("b")])
    wanted = config(db=tmp_path / "t.db", output=tmp_path / "o.jsonl", format=format_name)
    apply_filter(wanted)
    lines = [json.loads(line) for line in wanted.output.read_text().splitlines()]
    assert [line.get("tools") for line in lines] == [TOOLS, None, None, None]
    assert [list(chat.tools) for chat in read_sft(wanted.output)] == [TOOLS, [], [], []]


def test_a_file_of_plain_replies_has_the_bytes_it_always_had(tmp_path: Path) -> None:
    plain = Turn(
        0, (Message("user", "see"),), Reply('{"actions": ["up"]}', {"kind": "expert"}), StepFacts(("up",)),
        RewardParts(), 1.0, 1.0,
    )  # fmt: skip
    with TraceDB(tmp_path / "t.db") as traces:
        traces.add([rollout("a", turns=(plain,))], {"split": "train", "tools": TOOLS})
    apply_filter(config(db=tmp_path / "t.db", output=tmp_path / "o.jsonl"))
    assert (tmp_path / "o.jsonl").read_text() == (
        '{"messages":[{"content":"see","role":"user"},{"content":"{\\"actions\\": [\\"up\\"]}","role":"assistant"}],'
        '"metadata":{"achievements":["wood","sapling"],"kind":"expert","model":"teacher","reward":3.0,"rollout_id":"a",'
        '"seed":1,"turn":0}}\n'
    )


def test_splits_come_from_the_metadata() -> None:
    result = filter_rollouts(
        [rollout("a"), rollout("b"), rollout("c")],
        config(splits=["train"]),
        {"a": {"split": "train"}, "b": {"split": "test"}},
    )
    assert {line["metadata"]["rollout_id"] for line in result.examples} == {"a"}
    assert result.report.dropped == {"splits": 2}


def test_judge_scores_come_from_the_metadata() -> None:
    metadata = {name: {"judge_scores": {"quality": score}} for name, score in (("a", 0.9), ("b", 0.4), ("c", "high"))}
    episodes = [rollout(name) for name in "abcd"]
    result = filter_rollouts(episodes, config(min_judge_scores={"quality": 0.5}), metadata)
    assert {line["metadata"]["rollout_id"] for line in result.examples} == {"a"}
    assert result.report.dropped == {"min_judge_scores": 3}  # too low, not a number, not judged
    result = filter_rollouts(episodes, config(max_judge_scores={"quality": 0.5}), metadata)
    assert {line["metadata"]["rollout_id"] for line in result.examples} == {"b"}


@pytest.mark.parametrize("moment", ["2026-01-02T00:00:00", "2026-01-02T01:00:00+01:00", 1767312000])
def test_episodes_by_their_start(moment: Any) -> None:
    starts = {"a": "2026-01-01T23:59:59Z", "b": "2026-01-02T00:00:00Z", "c": "2026-01-02T00:00:01+00:00", "d": "?"}
    episodes = [rollout(name, started_at=start) for name, start in starts.items()]
    kept = {
        rule: {line["metadata"]["rollout_id"] for line in filter_rollouts(episodes, config(**{rule: moment})).examples}
        for rule in ("min_created_at", "max_created_at")
    }
    assert kept == {"min_created_at": {"b", "c"}, "max_created_at": {"a", "b"}}


def test_equal_lines_are_written_once() -> None:
    episodes = [rollout("a"), rollout("b", outcome=1.0), rollout("c", turns=(turn(0), turn(7)))]
    result = filter_rollouts(episodes, config(deduplicate=True))
    ids = [(line["metadata"]["rollout_id"], line["metadata"]["turn"]) for line in result.examples]
    assert ids == [("a", 0), ("a", 1), ("c", 7)]
    assert result.report.dropped_turns == {"deduplicate": 3}
    assert len(filter_rollouts(episodes, config()).examples) == 6


def test_offset_skips_after_the_shuffle() -> None:
    episodes = [rollout(f"r{at}") for at in range(9)]

    def ids(**changes: Any) -> list[str]:
        lines = filter_rollouts(episodes, config(shuffle=True, shuffle_seed=3, **changes)).examples
        return [line["metadata"]["rollout_id"] for line in lines if line["metadata"]["turn"] == 0]

    assert ids(offset=2, limit=4) == ids()[2:6]
    report = filter_rollouts(episodes, config(offset=2, limit=4)).report
    assert report.dropped == {"offset": 2, "limit": 3}
    with pytest.raises(NotFoundError, match="none of the 9") as caught:
        filter_rollouts(episodes, config(offset=9))
    assert "offset" in caught.value.hint


def test_turn_kinds_are_left_out() -> None:
    turns = (turn(0, "expert"), turn(1, "off_policy"), turn(2, problem="what?"), turn(3))
    result = filter_rollouts([rollout(turns=turns)], config(drop_turn_kinds=["off_policy", "invalid"]))
    assert [line["metadata"]["turn"] for line in result.examples] == [0, 3]
    assert (result.report.episodes_kept, result.report.lines) == (1, 2)
    assert result.report.dropped_turns == {"drop_turn_kinds": 2}


def test_the_hint_names_the_worst_rule_and_the_best_score() -> None:
    episodes = [rollout(str(at), outcome=at / 2) for at in range(4)] + [rollout("m", model="x")]
    with pytest.raises(NotFoundError) as caught:
        filter_rollouts(episodes, config(min_official_score=9.0, models=["teacher"]))
    assert caught.value.hint == "the rule 'min_official_score' dropped most (4); the best score seen is 3"
    with pytest.raises(NotFoundError, match="no episodes"):
        filter_rollouts([], config())
    with pytest.raises(NotFoundError) as caught:
        filter_rollouts([rollout(turns=())], config())
    assert caught.value.hint.startswith("no episode has a turn")


def test_limit_counts_episodes_and_shuffle_is_seeded() -> None:
    episodes = [rollout(f"r{at}") for at in range(20)]

    def ids(**changes: Any) -> list[str]:
        lines = filter_rollouts(episodes, config(**changes)).examples
        return [line["metadata"]["rollout_id"] for line in lines if line["metadata"]["turn"] == 0]

    assert ids(limit=3) == ["r0", "r1", "r2"]
    first = ids(shuffle=True, shuffle_seed=1)
    assert first == ids(shuffle=True, shuffle_seed=1) != ids(shuffle=True, shuffle_seed=2)
    assert sorted(first) == sorted(ids())
    assert ids(shuffle=True, shuffle_seed=1, limit=4) == first[:4]
    assert filter_rollouts(episodes, config(limit=3)).report.dropped == {"limit": 17}


@pytest.mark.parametrize(
    "changes",
    [
        {"min_offical_score": 1.0},
        {"min_official_score": 2.0, "max_official_score": 1.0},
        {"min_official_score": math.nan},
        {"min_judge_scores": {"quality": "high"}},
        {"min_judge_scores": {"quality": 0.6}, "max_judge_scores": {"quality": 0.5}},
        {"min_created_at": "yesterday"},
        {"min_created_at": "2026-01-02", "max_created_at": "2026-01-01"},
        {"offset": -1},
        {"limit": 0},
        {"max_invalid_turns": -1},
        {"shuffle_seed": 1},
        {"format": "parquet"},
    ],
)
def test_wrong_configurations_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(**changes)


episodes = st.builds(
    lambda at, outcome, model, names, problems: rollout(
        f"r{at}",
        outcome=outcome,
        model=model,
        achievements=tuple(sorted(names)),
        turns=tuple(turn(index, problem=problem) for index, problem in enumerate(problems)),
    ),
    st.integers(0, 999),
    st.floats(0, 5),
    st.sampled_from("ab"),
    st.sets(st.sampled_from(["wood", "stone"])),
    st.lists(st.sampled_from([None, "bad"]), min_size=1, max_size=3),
)
rules = st.fixed_dictionaries(
    {},
    optional={
        "min_official_score": st.floats(0, 2),
        "max_official_score": st.floats(2, 5),
        "models": st.just(["a"]),
        "required_achievements": st.just(["wood"]),
        "max_invalid_turns": st.integers(0, 2),
        "limit": st.integers(1, 4),
        "shuffle": st.booleans(),
    },
)


@settings(max_examples=100, deadline=None)
@given(st.lists(episodes, min_size=1, max_size=8), rules)
def test_rules_and_counts_hold_for_any_episodes(many: list[Rollout], given_rules: dict[str, Any]) -> None:
    wanted = config(**given_rules)
    good = [
        one
        for one in many
        if given_rules.get("min_official_score", 0) <= one.outcome <= given_rules.get("max_official_score", 5)
        and one.model in given_rules.get("models", ["a", "b"])
        and set(given_rules.get("required_achievements", [])) <= set(one.achievements)
        and one.invalid_turns <= given_rules.get("max_invalid_turns", 9)
    ]
    if not good:
        with pytest.raises(NotFoundError):
            filter_rollouts(many, wanted)
        return
    result = filter_rollouts(many, wanted)
    report = result.report
    assert report.episodes_kept == min(len(good), given_rules.get("limit", 99))
    assert report.episodes_kept + sum(report.dropped.values()) == report.episodes_read == len(many)
    assert len(result.examples) == report.lines
    assert {line["metadata"]["rollout_id"] for line in result.examples} <= {one.rollout_id for one in good}
    assert report.best_score == max(one.outcome for one in many)


def test_from_database_to_file(tmp_path: Path) -> None:
    with TraceDB(tmp_path / "traces" / "t.db") as traces:
        traces.add([rollout("b", seed=2), rollout("a", seed=1)], {"split": "train"})
        traces.add([rollout("c", seed=0)], {"split": "test"})
    toml = tmp_path / "filter.toml"
    toml.write_text('[filter]\ndb = "traces/t.db"\noutput = "data/o.jsonl"\nsplits = ["train"]\n')
    report = run_filter([toml], ["filter.min_official_score=1.0"], tmp_path)
    output = tmp_path / "data" / "o.jsonl"
    assert (report["lines"], report["episodes_kept"], report["dropped"]) == (4, 2, {"splits": 1})
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["metadata"]["rollout_id"] for line in lines] == ["a", "a", "b", "b"]  # by seed
    assert [chat.messages[-1].role for chat in read_sft(output)] == ["assistant"] * 4
    meta = json.loads(meta_path(output).read_text())
    assert meta["source"]["sha256"] == sha256_file(tmp_path / "traces" / "t.db")
    assert meta["filter"]["min_official_score"] == 1.0
    assert meta["sha256"] == sha256_file(output)
    assert (meta["episodes"], meta["lines"], meta["dropped"]) == (2, 4, {"splits": 1})
    before = output.read_bytes()
    with pytest.raises(NotFoundError):
        run_filter([toml], ["filter.min_official_score=9.0"], tmp_path)
    assert output.read_bytes() == before
    with pytest.raises(ConfigError):
        run_filter([toml], ["filter.min_score=1"], tmp_path)
    with pytest.raises(NotFoundError):
        apply_filter(config(db=tmp_path / "missing.db"))


def test_tool_calls_in_both_formats() -> None:
    one = filter_rollouts([rollout()], config(format="trl")).examples[0]
    assert one["messages"][-1]["tool_calls"][0]["function"]["arguments"] == {"actions": ["up"]}
    result = filter_rollouts([rollout(turns=(turn(0, arguments="{broken"), turn(1)))], config(format="trl"))
    assert (result.report.lines, result.report.dropped_turns) == (1, {"format": 1})


names = st.text("abc", min_size=1, max_size=3)
arguments = st.dictionaries(names, st.integers() | names | st.lists(names, max_size=2), max_size=2).map(canonical_json)
calls = st.builds(
    lambda at, name, text: {"id": f"c{at}", "type": "function", "function": {"name": name, "arguments": text}},
    st.integers(0, 3),
    names,
    arguments,
)
chats = st.lists(
    st.one_of(
        st.builds(lambda role, text: {"role": role, "content": text}, st.sampled_from(["system", "user"]), st.text()),
        st.builds(
            lambda text, many: {"role": "assistant", "content": text, "tool_calls": many}, st.text(), st.lists(calls)
        ),
        st.builds(
            lambda at, text: {"role": "tool", "content": text, "tool_call_id": f"c{at}"}, st.integers(0, 3), st.text()
        ),
    ),
    max_size=5,
)


@settings(max_examples=40, deadline=None)
@given(chats)
def test_openai_to_trl_and_back_is_the_identity(chat: list[dict[str, Any]]) -> None:
    assert to_openai(to_trl(chat)) == to_openai(chat) == chat


def test_trl_tool_messages_carry_the_name() -> None:
    chat: list[dict[str, Any]] = [
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "ok", "tool_call_id": "c1"},
    ]
    assert to_trl(chat)[1]["name"] == "act"


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.text(st.characters(codec="utf-8")), min_size=1, max_size=3), min_size=1, max_size=3))
def test_what_is_written_is_read(tmp_path: Path, contents: list[list[str]]) -> None:
    lines = [
        {
            "messages": [
                *({"role": "user", "content": text} for text in texts),
                {"role": "assistant", "content": texts[0], "x": 1},
            ]
        }
        for texts in contents
    ]
    path = tmp_path / "data.jsonl"
    write_sft(path, lines, {})
    assert path.read_bytes().count(b"\n") == len(lines)
    read = [[message.as_dict() for message in chat.messages] for chat in read_sft(path)]
    assert read == [line["messages"] for line in lines]


def test_foreign_lines(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    user, assistant, tool = {"role": "user", "content": parts}, {"role": "assistant", "content": None}, {"role": "tool"}
    path.write_text(json.dumps({"messages": [user, assistant, tool]}) + "\r\n\n")
    assert read_sft(path) == [SftChat(1, (Message("user", "ab"), Message("assistant", "")))]


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[]",
        "{}",
        '{"messages": []}',
        '{"messages": 3}',
        '{"messages": ["hi"]}',
        '{"messages": [{"role": "user", "content": "x"}]}',
        '{"messages": [{"content": "x"}, {"role": "assistant", "content": "x"}]}',
        '{"messages": [{"role": "robot", "content": "x"}, {"role": "assistant", "content": "x"}]}',
        '{"messages": [{"role": "assistant", "content": 3}]}',
        '{"messages": [{"role": "assistant", "content": NaN}]}',
        '{"messages": [{"role": "assistant", "content": [{"type": "image"}]}]}',
        '{"messages": [{"role": [], "content": ""}]}',
        "[" * 5000,
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"messages": [{"role": "assistant", "content": "x"}]}\n' + line + "\n")
    with pytest.raises(CorruptError, match="line 2") as caught:
        read_sft(path)
    assert caught.value.exit_code == 7


def test_no_data_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_sft(tmp_path / "missing.jsonl")
    (tmp_path / "empty.jsonl").write_bytes(b"\n")
    with pytest.raises(CorruptError, match="no examples"):
        read_sft(tmp_path / "empty.jsonl")
    (tmp_path / "binary.jsonl").write_bytes(b'{"messages": \xff}\n')
    with pytest.raises(CorruptError, match="line 1"):
        read_sft(tmp_path / "binary.jsonl")
