"""Replies: what is read, what is told, and that nothing raises or hangs."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.crafter.aliases import ALIASES, action_named
from envs.crafter.rules import ACTION_ID, ACTIONS
from envs.crafter.tools import ParsedReply, format_reply, parse_actions, single_tool_schema, tool_schema

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
    [
        "",
        "[]",
        "I don't know",
        "do {",
        '{"actions": ["do"]',
        '{"actions": ["do", "move_right',
        '{\n  "actions": ["do"]',
        '{"actions": "do"}',
        '{"actions": {}}',
        '{"action": true}',
        '{"action": 17}',
        '"actions" {',
        "Actions:",
        "<action></action>",
        "I will then go and do it",
        "- I like trees\n- it is dark",
    ],
)
def test_useless_text_is_one_noop_and_a_problem(text: str) -> None:
    parsed = parse(text)
    assert parsed.actions == NOOP
    assert parsed.problem
    assert parse_actions(text, {}, 5, fallback=()) == ParsedReply((), parsed.problem)


@pytest.mark.parametrize(
    ("text", "actions"),
    [
        ('{"action": "do"}', ("do",)),
        ('{"action": 5}', ("do",)),
        ('{"action": "do", "why": {"actions": ["sleep"]}}', ("sleep",)),
        ('{"name": "interact", "arguments": {"action": "up"}}', ("move_up",)),
        ('<tool_call>{"name": "interact_many", "arguments": {"actions": ["do", "up"]}}</tool_call>', ("do", "move_up")),
        ('{"tool": "interact_many", "args": "{\\"actions\\": [\\"do\\"]}"}', ("do",)),
    ],
)
def test_reads_other_json(text: str, actions: tuple[str, ...]) -> None:
    assert parse(text) == ParsedReply(actions)


@pytest.mark.parametrize(
    ("text", "actions"),
    [
        ("noop", NOOP),
        ("move_right, do", ("move_right", "do")),
        ("Move right; then DO and sleep.", ("move_right", "do", "sleep")),
        ("`move-left` -> do", ("move_left", "do")),
        ("move_right move_right do", ("move_right", "move_right", "do")),
        ('["move_right", "do"]', ("move_right", "do")),
        ("```\nmove_right\ndo\n```", ("move_right", "do")),
        ("Let us see, what is best?\n\nmove_right, do", ("move_right", "do")),
        ("Actions: move_right, do", ("move_right", "do")),
        ("I see a tree on the right, so\n**Actions:** [right, do]", ("move_right", "do")),
        ("ACTION: craft_wood_pickaxe", ("make_wood_pickaxe",)),
        ("Action 1: up\nsome prose\nAction 2: do", ("move_up", "do")),
        ("1. Action: up", ("move_up",)),
        ("<action>up</action> and later <action>do, sleep</action>", ("move_up", "do", "sleep")),
        ("[action]rest[/action]", ("sleep",)),
        ("<actions>\nup\ndo\n</actions>", ("move_up", "do")),
        ("My plan:\n- up\n* do\n\u2022 sleep", ("move_up", "do", "sleep")),
        ("1. up - towards the tree\n2) do (to collect)\n(3) noop: wait", ("move_up", "do", "noop")),
        ("<think>- sleep</think>up", ("move_up",)),
    ],
)
def test_reads_plain_text(text: str, actions: tuple[str, ...]) -> None:
    assert parse(text) == ParsedReply(actions)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("jump, do", ParsedReply(("do",), 'unknown actions: "jump"')),
        ("Action: explore the cave", ParsedReply(NOOP, 'unknown actions: "explore the cave"')),
        ("- do\n- dance", ParsedReply(("do",), 'unknown actions: "dance"')),
        ("do, do, do, do, do, do", ParsedReply(("do",) * 5, "6 actions, only the first 5 were executed")),
    ],
)
def test_what_is_wrong_with_plain_text_is_told(text: str, parsed: ParsedReply) -> None:
    assert parse(text) == parsed


def test_every_alias_means_an_action() -> None:
    assert set(ALIASES.values()) <= set(ACTIONS)
    assert not set(ALIASES) & set(ACTIONS)
    for action in ACTIONS:
        assert action_named(action) == action_named(f" {action.upper().replace('_', ' ')}\n") == action


@pytest.mark.parametrize(
    ("calls", "actions"),
    [
        ([{"tool": "interact_many", "args": {"actions": ["do", "left"]}}], ("do", "move_left")),
        ([{"tool_name": "interact_many", "arguments": '{"actions": ["do"]}'}], ("do",)),
        ([{"name": "interact", "args": '{"action": "sleep"}'}], ("sleep",)),
        ([{"tool": "interact", "args": {"action": 1}}], ("move_left",)),
        ([{"tool": "move_left", "args": {}}, {"tool": "do"}], ("move_left", "do")),
    ],
)
def test_other_spellings_of_tool_calls(calls: list[dict[str, Any]], actions: tuple[str, ...]) -> None:
    assert parse("", tool_calls=calls) == ParsedReply(actions)


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
        "action" + " " * 100_000,
        "action 1" * 20_000 + ":",
        "<action>" * 20_000,
        "[action]" * 20_000 + "[/action",
        "- " * 50_000,
        "and " * 50_000,
        "a," * 50_000,
        "move_" * 50_000,
        "\n" * 100_000 + "x",
        "* _*" * 50_000 + "action",
        "1." * 50_000,
    ],
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
PLAIN = st.lists(
    st.sampled_from(
        [*ACTIONS, *ALIASES, "jump", "go right", "Action 1:", "Actions:", "<action>", "</action>", "[action]"]
    )
    | st.sampled_from(["[/action]", "- ", "* ", "1. ", ", ", "; ", " and ", " then ", "\n", " ", "```", "**", "{", "}"])
    | st.text(max_size=5),
    max_size=40,
).map("".join)


@settings(max_examples=150, deadline=None)
@given(NOISE, JSON, NOISE, st.integers(1, 8))
def test_any_text_is_answered(before: str, value: Any, after: str, max_actions: int) -> None:
    check(parse_actions(before + json.dumps(value) + after, {}, max_actions), max_actions)


@settings(max_examples=300, deadline=1000)
@given(PLAIN, st.integers(1, 8))
def test_any_plain_text_is_answered(text: str, max_actions: int) -> None:
    check(parse_actions(text, {}, max_actions), max_actions)


WORDS = st.sampled_from(["interact", "interact_many", "do", '{"actions": ["do", 3]}', '{"action": 5}', "{"])
SPELLED = st.dictionaries(
    st.sampled_from(["function", "name", "tool", "tool_name", "arguments", "args"]),
    st.none() | st.integers() | st.text(max_size=9) | st.lists(st.text(max_size=3)) | WORDS,
)


@settings(max_examples=100, deadline=None)
@given(st.lists(SPELLED, min_size=1), st.integers(1, 8))
def test_any_spelling_of_tool_calls_is_answered(calls: list[Any], max_actions: int) -> None:
    check(parse_actions("", {"tool_calls": calls}, max_actions), max_actions)


@given(
    st.lists(st.sampled_from(ACTIONS), min_size=1, max_size=5), st.sampled_from([", ", "; ", " then ", "\n", " -> "])
)
def test_plain_names_are_read_in_order(actions: list[str], separator: str) -> None:
    assert parse(separator.join(actions)) == ParsedReply(tuple(actions))
    assert parse(f"Actions: {', '.join(actions)}") == ParsedReply(tuple(actions))
    assert parse("\n".join(f"{n}. {name}" for n, name in enumerate(actions, 1))) == ParsedReply(tuple(actions))


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
    single = single_tool_schema()["function"]
    assert single["name"] == "interact"
    assert single["parameters"]["properties"] == {"action": {"type": "string", "enum": list(ACTIONS)}}
    assert single["parameters"]["required"] == ["action"]
