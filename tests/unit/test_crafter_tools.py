"""Replies: what is read, what is told, and that nothing raises or hangs."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.crafter.rules import ACTION_ID, ACTIONS
from envs.crafter.tools import ParsedReply, format_reply, parse_actions, tool_schema

NOOP = ("noop",)


def parse(text: str, max_actions: int = 5, **extra: Any) -> ParsedReply:
    return parse_actions(text, extra, max_actions)


def call(name: str, arguments: Any) -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize(
    ("text", "actions"),
    [
        ('{"actions": ["move_right", "do"]}', ("move_right", "do")),
        ('I go. ```json\n{"actions":["do"]}\n``` Done.', ("do",)),
        ('{"thought": "a {brace}", "actions": ["sleep"]}', ("sleep",)),
        ('{"name": "x"} {"actions": ["do"]} {"actions": ["sleep"]}', ("do",)),
        ('{"arguments": {"actions": ["do"]}}', ("do",)),
        ('{ {"actions": ["do"]}', ("do",)),
        ('<think>maybe {"actions": ["sleep"]}</think>{"actions": ["do"]}', ("do",)),
        (
            '{"actions": ["left", " Craft_wood_pickaxe ", "use", "rest"]}',
            ("move_left", "make_wood_pickaxe", "do", "sleep"),
        ),
    ],
)
def test_reads_text(text: str, actions: tuple[str, ...]) -> None:
    assert parse(text) == ParsedReply(actions)


@pytest.mark.parametrize(
    "text",
    ["", "noop", "[]", '{"actions": ["do"]', '{"action": "do"}', '{"actions": "do"}', '{"actions": {}}', '"actions" {'],
)
def test_useless_text_is_one_noop_and_a_problem(text: str) -> None:
    parsed = parse(text)
    assert parsed.actions == NOOP
    assert parsed.problem


def test_unknown_actions_are_named_and_known_ones_kept() -> None:
    parsed = parse('{"actions": ["jump", "do", 7, "fly\\n\\ud800"]}')
    assert parsed.actions == ("do",)
    assert parsed.problem == r'unknown actions: "jump", <int>, "fly\n\ud800"'
    assert parse('{"actions": ["jump"]}') == ParsedReply(NOOP, 'unknown actions: "jump"')
    assert parse('{"actions": []}') == ParsedReply(NOOP, "the list of actions is empty")


def test_many_unknown_names_make_a_short_problem() -> None:
    problem = parse(json.dumps({"actions": ["x" * 1000] * 30})).problem
    assert problem is not None
    assert problem.endswith(" and 25 more")
    assert len(problem) < 400


def test_too_many_actions_are_cut_and_told() -> None:
    text = format_reply(["do"] * 8)
    assert parse(text) == ParsedReply(("do",) * 5, "8 actions, only the first 5 were executed")
    assert parse_actions(text, {}, 5, report_cut=False) == ParsedReply(("do",) * 5)


@pytest.mark.parametrize("arguments", [{"actions": ["do", "left"]}, '{"actions": ["do", "left"]}'])
@pytest.mark.parametrize("name", ["interact_many", "interact"])
def test_reads_tool_calls(name: str, arguments: Any) -> None:
    assert parse("", tool_calls=[call(name, arguments)]) == ParsedReply(("do", "move_left"))
    assert parse("", tool_calls=[{"name": name, "arguments": arguments}]) == ParsedReply(("do", "move_left"))


def test_tool_calls_go_before_text_and_add_up() -> None:
    calls = [call("interact_many", {"actions": ["do"]}), call("interact", {"action": "sleep"})]
    assert parse('{"actions": ["noop"]}', tool_calls=calls) == ParsedReply(("do", "sleep"))


@pytest.mark.parametrize(
    "calls",
    [
        [call("other", {"actions": ["do"]})],
        [call("interact_many", "not json")],
        [call("interact_many", {"actions": "do"})],
        [call("interact_many", None)],
        [None],
        [{"function": 3}],
        [{"function": {"name": ["interact"]}}],
        [call("interact_many", {"actions": []})],
    ],
)
def test_bad_tool_calls_are_a_problem(calls: list[Any]) -> None:
    parsed = parse("", tool_calls=calls)
    assert parsed.actions == NOOP
    assert parsed.problem


@pytest.mark.parametrize(
    "text",
    [
        '{"actions":' * 100_000,
        '{"actions": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"actions": [' + "9" * 100_000 + "]}",
        '{"a":' * 50_000 + '"actions"',
        ('{"a": [' + "1," * 500) * 100 + '"actions"',
        "{" * 200_000 + '"actions": [1]}',
        '{"actions": ["' + "\\u0000" * 50_000 + '"]}',
    ],
    ids=["objects", "lists", "number", "open", "wide", "braces", "nulls"],
)
def test_hostile_text_is_answered_quickly(text: str) -> None:
    started = time.process_time()
    parsed = parse(text)
    assert parsed.actions == NOOP
    assert parsed.problem
    assert len(parsed.problem) < 1000
    assert time.process_time() - started < 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(ACTIONS),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("actions"), inner),
    max_leaves=20,
)
NOISE = st.text(alphabet='{}[]":,\\ actions<think/>do0', max_size=200) | st.text()


@settings(max_examples=150, deadline=None)
@given(NOISE, JSON, NOISE, st.integers(1, 8))
def test_any_text_is_answered(before: str, value: Any, after: str, max_actions: int) -> None:
    check(parse_actions(before + json.dumps(value) + after, {}, max_actions), max_actions)


@settings(max_examples=100, deadline=None)
@given(
    NOISE,
    JSON
    | st.lists(
        st.fixed_dictionaries(
            {"function": JSON | st.fixed_dictionaries({"name": JSON | st.just("interact"), "arguments": JSON})}
        )
    ),
)
def test_any_tool_calls_are_answered(text: str, calls: Any) -> None:
    check(parse_actions(text, {"tool_calls": calls}, 5), 5)


def check(parsed: ParsedReply, max_actions: int) -> None:
    assert 1 <= len(parsed.actions) <= max_actions
    assert all(action in ACTION_ID for action in parsed.actions)
    assert parsed.problem is None or parsed.problem.isascii()


@given(st.lists(st.sampled_from(ACTIONS), min_size=1, max_size=20))
def test_format_and_parse_are_inverse(actions: list[str]) -> None:
    assert parse(format_reply(actions), max_actions=20) == ParsedReply(tuple(actions))


def test_schema_names_all_actions() -> None:
    function = tool_schema(5)["function"]
    assert function["name"] == "interact_many"
    assert function["parameters"]["properties"]["actions"]["items"]["enum"] == list(ACTIONS)
    assert function["parameters"]["properties"]["actions"]["maxItems"] == 5
