"""Requests as vendors take them, and replies as they come: odd ones become invalid turns, never exceptions."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.crafter.task import CrafterTask
from envs.crafter.tools import parse_actions
from synth_ray.core.errors import ConfigError
from synth_ray.core.types import Endpoint, Message, Reply, RewardParts, Sampling, StepFacts, Turn
from synth_ray.records.rollout_rows import turn_values
from synth_ray.rollout.remote.client import parse_json
from synth_ray.rollout.remote.redaction import redacted, redacted_json, shown
from synth_ray.rollout.remote.reply import read_reply
from synth_ray.rollout.remote.request import chat_body, check_body, fitted, with_smaller_budget
from synth_ray.rollout.tool_calls import flat_call, openai_call
from tests.unit.fake_provider import TOOL_CALL, completion

TOOLS = CrafterTask().tools({"max_actions_per_turn": 7})
MESSAGES = (Message("system", "rules"), Message("user", "what now?", images=("data:image/png;base64,AAAA",)))
KEY = "sk-proj-0123456789abcdefghij"


def body(model: str = "m", vendor: str = "", sampling: Sampling | None = None, **given: Any) -> dict[str, Any]:
    endpoint = Endpoint("http://h/v1/chat/completions", model, vendor, given)
    return chat_body(endpoint, vendor, MESSAGES, TOOLS, sampling or Sampling(0.5, 0.9, 0, 100), seed=7)


def played(reply: Reply) -> StepFacts:
    """What the task makes of a reply, without a world."""
    parsed = parse_actions(reply.text, reply.extra, 5)
    return StepFacts(parsed.actions, problem=parsed.problem)


def test_a_request_asks_for_the_tasks_tool_and_shows_the_image() -> None:
    sent = body()
    assert sent["model"] == "m"
    assert (sent["temperature"], sent["top_p"], sent["max_tokens"], sent["seed"]) == (0.5, 0.9, 100, 7)
    assert sent["tools"][0]["function"]["parameters"]["properties"]["actions"]["maxItems"] == 7
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "interact_many"}}
    assert sent["parallel_tool_calls"] is False
    assert sent["messages"][0] == {"role": "system", "content": "rules"}
    assert sent["messages"][1]["content"][1]["image_url"]["url"].startswith("data:image/png")


def test_settings_win_over_sampling_and_tools_can_be_left_out() -> None:
    sent = body(temperature=0.1, max_completion_tokens=9, use_tools=False, reasoning_effort="low")
    assert sent["temperature"] == 0.1
    assert sent["max_completion_tokens"] == 9
    assert sent["reasoning_effort"] == "low"
    assert not {"tools", "tool_choice", "parallel_tool_calls", "use_tools", "max_tokens"} & set(sent)


@pytest.mark.parametrize("model", ["gpt-5", "gpt-5-mini", "openai/gpt-5.2"])
def test_gpt_5_has_its_own_fields(model: str) -> None:
    sent = body(model, "openai")
    assert sent["max_completion_tokens"] == 100
    assert not {"max_tokens", "temperature", "top_p"} & set(sent)


@pytest.mark.parametrize(
    ("model", "vendor", "sent"),
    [
        ("m", "", {"logprobs", "return_token_ids"}),
        ("gpt-4o", "openai", {"logprobs"}),
        ("gpt-5-mini", "openai", set()),
        ("qwen/qwen3-32b", "groq", set()),
    ],
)
def test_tokens_are_asked_for_where_they_can_be_given(model: str, vendor: str, sent: set[str]) -> None:
    assert {"logprobs", "return_token_ids"} & set(body(model, vendor, logprobs=True, return_token_ids=True)) == sent


def test_vendors_get_no_fields_of_other_servers() -> None:
    others = {"thinking_mode": "think", "thinking_budget": 9, "extra_body": {"a": 1}, "stop_after_tool_calls": 1}
    sent = body("gpt-4o", "openai", Sampling(top_k=20), **others, reasoning={}, function_call={})
    assert not {*others, "reasoning", "function_call", "top_k", "a"} & set(sent)


@pytest.mark.parametrize(
    ("given", "switches"),
    [
        ({"thinking_mode": "no_think"}, {"enable_thinking": False}),
        ({"thinking_mode": "think"}, {"enable_thinking": True}),
        ({"thinking_mode": "think", "thinking_budget": 64}, {"enable_thinking": True, "thinking_budget": 64}),
        ({"thinking_budget": 0}, {"enable_thinking": False}),
        ({"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}, {"enable_thinking": False}),
        ({"extra_body": {"thinking_mode": "no_think"}}, {"enable_thinking": False}),
        ({}, None),
    ],
)
def test_thinking_is_switched_in_the_chat_template(given: dict[str, Any], switches: dict[str, Any] | None) -> None:
    sent = body(**given)
    assert sent.get("chat_template_kwargs") == switches
    assert not {"thinking_mode", "thinking_budget", "extra_body"} & set(sent)


def test_extra_body_is_unpacked_below_explicit_fields() -> None:
    sent = fitted({"model": "m", "top_k": 1, "extra_body": {"top_k": 2, "min_p": 0.1}}, "")
    assert sent == {"model": "m", "top_k": 1, "min_p": 0.1}


@pytest.mark.parametrize(
    "wrong",
    [
        *({"stream": True}, {"messages": []}, {"n": 2}, {"model": "x"}, {"tools": None}, {"a": float("nan")}),
        *({"extra_body": {name: 1}} for name in ("stream", "stream_options", "n", "messages", "model", "tools")),
    ],
)
def test_what_the_rollout_decides_cannot_be_set(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        check_body(wrong)


def test_a_smaller_token_budget() -> None:
    def refusal(used: Any, limit: Any) -> dict[str, Any]:
        return {
            "detail": {"error": "token_budget_exceeded", "details": {"messages_tokens": used, "model_limit": limit}}
        }

    assert (with_smaller_budget({"max_tokens": 500}, refusal(700, 1024)) or {})["max_tokens"] == 260
    assert (with_smaller_budget({"max_tokens": 500}, refusal(1020, 1024)) or {})["max_tokens"] == 16
    assert with_smaller_budget({}, refusal("x", 1)) is None
    assert with_smaller_budget({}, {"detail": "token_budget_exceeded"}) is None
    assert with_smaller_budget({}, None) is None


def test_a_whole_reply() -> None:
    value = completion(
        {"content": "hello", "reasoning_content": "hm", "tool_calls": [TOOL_CALL]}, prompt_token_ids=[1, 2]
    )
    value["choices"][0] |= {"token_ids": [3, 4], "logprobs": {"content": [{"logprob": -0.5}, {"logprob": -1}]}}
    reply = read_reply(value)
    assert reply == Reply(
        text="hello",
        extra={"tool_calls": [TOOL_CALL], "reasoning": "hm"},
        prompt_ids=(1, 2),
        token_ids=(3, 4),
        logprobs=(-0.5, -1.0),
        finish_reason="stop",
        weights_name="fake-model-2026",
        usage={"input_tokens": 11, "output_tokens": 7, "total_tokens": 18},
    )


@pytest.mark.parametrize(
    ("message", "text", "reasoning"),
    [
        ({"content": "<think>a\nb</think>\n{}"}, "{}", "a\nb"),
        ({"content": "a</think>{}"}, "{}", "a"),
        ({"content": "<think>cut off"}, "", "cut off"),
        ({"content": "plain"}, "plain", None),
        ({"content": [{"type": "thinking"}, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab", None),
        ({"content": "x", "reasoning": "r"}, "x", "r"),
        ({"content": "x", "reasoning": {"not": "text"}}, "x", None),
    ],
)
def test_thoughts_are_told_from_the_answer(message: dict[str, Any], text: str, reasoning: str | None) -> None:
    reply = read_reply(completion(message))
    assert (reply.text, reply.extra.get("reasoning")) == (text, reasoning)


def test_names_hold_no_lone_surrogates() -> None:
    value = completion({"content": "x", "tool_calls": [{**TOOL_CALL, "id": "c\udc00"}]}, model="m\ud800")
    value["choices"][0]["finish_reason"] = "\ud83d"
    reply = read_reply(value)
    assert (reply.weights_name, reply.finish_reason, reply.extra["tool_calls"][0]["id"]) == ("m?", "?", "c?")


def test_tool_arguments_become_text() -> None:
    call = {"name": "interact_many", "arguments": {"actions": ["do"]}}
    reply = read_reply(completion({"tool_calls": [call]}))
    assert json.loads(reply.extra["tool_calls"][0]["function"]["arguments"]) == {"actions": ["do"]}


@pytest.mark.parametrize("levels", [65, 940, 100_000])
def test_deep_arguments_stay_text(levels: int) -> None:
    deep = '{"actions": ' + "[" * levels + "]" * levels + "}"
    call = {"name": "interact_many", "arguments": deep}
    assert flat_call(call)["arguments"] == {"text": deep}
    assert openai_call(call)["function"]["arguments"] == {"text": deep}
    flat = json.dumps({"actions": ["do"], "note": "[" * levels})
    assert flat_call({**call, "arguments": flat})["arguments"]["actions"] == ["do"]


MALFORMED: list[dict[str, Any]] = [
    {},
    {"choices": []},
    {"choices": None},
    {"choices": "x"},
    {"choices": [None]},
    {"choices": [{}]},
    {"choices": [{"message": None}]},
    {"choices": [{"message": []}]},
    completion({}),
    completion({"content": None}),
    completion({"content": ""}),
    completion({"content": 7}),
    completion({"content": {"a": 1}}),
    completion({"content": "x", "tool_calls": "y"}),
    completion({"content": "x", "tool_calls": [None]}),
    completion({"content": "x", "tool_calls": [{"function": None}]}),
    completion({"content": "x", "tool_calls": [{"function": {"name": 3}}]}),
]


@pytest.mark.parametrize("value", MALFORMED)
def test_a_malformed_reply_is_an_invalid_turn(value: dict[str, Any]) -> None:
    reply = read_reply(value)
    assert reply.text == ""
    assert reply.extra["problem"]
    assert played(reply).problem


@pytest.mark.parametrize("ids", [[1, "2"], [2**31], [-1], [True], [1.5], [None], "12", [1]])
def test_odd_token_ids_are_dropped(ids: Any) -> None:
    value = completion({"content": "x"}, prompt_token_ids=ids if ids != [1] else None)
    value["choices"][0] |= {"token_ids": ids, "logprobs": {"content": [{"logprob": -0.5}, {"logprob": -1}]}}
    reply = read_reply(value)
    assert (reply.prompt_ids, reply.token_ids, reply.logprobs) == ((), (), (-0.5, -1.0))


@pytest.mark.parametrize("logprob", [None, "x", 10**400, {}, True])
def test_odd_logprobs_are_dropped(logprob: Any) -> None:
    value = completion({"content": "x"})
    value["choices"][0]["logprobs"] = {"content": [{"logprob": -1.0}, {"logprob": logprob}]}
    assert len(read_reply(value).logprobs) in (0, 2)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        "content": JSON,
        "reasoning": JSON,
        "refusal": JSON,
        "tool_calls": JSON
        | st.lists(
            st.fixed_dictionaries({"function": st.fixed_dictionaries({"name": JSON, "arguments": JSON})}), max_size=2
        ),
    },
)
CHOICE = st.fixed_dictionaries(
    {"message": MESSAGE | JSON},
    optional={"token_ids": JSON | st.lists(st.integers(), max_size=3), "logprobs": JSON, "finish_reason": JSON},
)
ANSWER = st.fixed_dictionaries(
    {"choices": st.lists(CHOICE, max_size=2) | JSON}, optional={"usage": JSON, "model": JSON, "prompt_token_ids": JSON}
)


@given(ANSWER)
def test_any_json_is_a_turn_that_can_be_played_and_stored(value: dict[str, Any]) -> None:
    reply = read_reply(json.loads(json.dumps(value)))
    turn = Turn(0, MESSAGES, reply, played(reply), RewardParts(), 1.0, 1.0)
    assert turn_values("id", turn)


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "{", "NaN", "[Infinity]", '{"a": -Infinity}', '{"a": 1e999}', "9" * 5000, '{"a": }'),
        *("[" * depth + "]" * depth for depth in (65, 940, 100_000)),
    ],
)
def test_what_is_no_json(text: str) -> None:
    assert parse_json(text) is None


def test_the_key_is_cut_out() -> None:
    assert KEY not in redacted(f"a {KEY} b", KEY)
    assert redacted("abc", "") == "abc"


@pytest.mark.parametrize(
    "spelt",
    ['sk/a"b\\cdk', 'sk\\/a"b\\cdk', '\\u0073k/a"b\\cdk', 'sk\\/a\\"b\\\\cdk', "sk\\u002Fa\\u0022b\\u005c\\u0063dk"],
)
def test_the_key_is_cut_out_however_json_spells_it(spelt: str) -> None:
    key = 'sk/a"b\\cdk'
    assert redacted(f"a {spelt} b", key) == "a [redacted] b"
    assert redacted_json({spelt: [{"x": spelt}, 1, None]}, key) == {"[redacted]": [{"x": "[redacted]"}, 1, None]}
    assert "[redacted]" in shown(f"a {spelt} b", key)


@pytest.mark.parametrize(
    "text",
    [
        f"bad key {KEY}",
        f"bad key '{KEY[:14]}'",
        f"bad key: ...{KEY[-9:]}",
        f"bad key={KEY[4:20]}!",
        "Bearer abcdefghijk",
        "sk-proj-****************ghij",
    ],
)
def test_pieces_of_a_key_are_not_shown(text: str) -> None:
    line = shown(text, KEY)
    assert "[redacted]" in line
    assert not any(KEY[at : at + 8] in line for at in range(len(KEY) - 7))
    assert "****" not in line


def test_what_is_shown_is_one_short_printable_line() -> None:
    line = shown("\x1b[31mred\x00\n\u202eevil " + "long " * 1000)
    assert line.isprintable()
    assert len(line) <= 303
