"""Replies as texts: tool calls in every spelling that models use, and tokens that add up to their text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from serve.openai.answer import cut_at
from serve.openai.errors import openai_error
from serve.openai.tool_calls import find_tool_calls
from synth_ray.rollout.chat import Chat


def tool(name: str, *required: str, optional: tuple[str, ...] = ()) -> dict[str, Any]:
    properties = {one: {"type": "string"} for one in (*required, *optional)}
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [tool("act", "actions", optional=("why",)), tool("look", "place")]
CALL = {"name": "look", "arguments": {"place": "north"}}
FOUND = ("look", {"place": "north"})


def hermes(call: Any) -> str:
    return f"<tool_call>\n{json.dumps(call)}\n</tool_call>"


@pytest.mark.parametrize(
    ("text", "rest", "calls"),
    [
        ('{"actions": ["do"]}', "", [("act", {"actions": ["do"]})]),
        ('I go. {"actions": ["do"], "why": "x"}', "I go.", [("act", {"actions": ["do"], "why": "x"})]),
        ('{} {"a": 1} {"place": "x"} end', '{} {"a": 1}  end', [("look", {"place": "x"})]),
        (json.dumps(CALL), "", [FOUND]),
        (json.dumps({"name": "look", "parameters": {"place": "north"}}), "", [FOUND]),
        (json.dumps({"name": "look", "arguments": '{"place": "north"}'}), "", [FOUND]),
        (hermes(CALL), "", [FOUND]),
        (f"first{hermes(CALL)}{hermes(CALL)}last", "firstlast", [FOUND, FOUND]),
        ('<think>\n{"place": "x"}\n</think>\n' + hermes(CALL), '<think>\n{"place": "x"}\n</think>', [FOUND]),
        (hermes(CALL).removesuffix("</tool_call>"), "", [FOUND]),
        (hermes({"name": "look"}), "", [("look", {})]),
    ],
)
def test_calls_are_found(text: str, rest: str, calls: list[Any]) -> None:
    assert find_tool_calls(text, TOOLS) == (rest, calls)


@pytest.mark.parametrize(
    "text",
    [
        "nothing",
        '{"actions": ["do"], "other": 1}',
        '{"why": "x"}',
        '{"actions": NaN}',
        '{"name": "absent", "arguments": {}}',
        hermes({"name": "absent", "arguments": {"a": 1}}),
        "<tool_call>{broken</tool_call>",
        "{" * 100_000,
        '{"actions": ' + "[" * 100_000,
        "<tool_call>" * 10_000,
        '<think>{"place": "x"}</think> no call',
    ],
)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert find_tool_calls(text, TOOLS) == (text, [])


@given(st.text(alphabet='{}[]":,<tool_call>/ \nabc', max_size=200))
def test_no_text_is_an_error(text: str) -> None:
    rest, calls = find_tool_calls(text, TOOLS)
    assert calls or rest == text


@pytest.fixture(scope="module")
def byte_chat() -> Chat:
    """A chat whose tokens are single bytes, so that most characters need several."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return Chat(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>"))


@settings(deadline=None)
@given(st.text(max_size=40))
def test_pieces_add_up_to_the_text(byte_chat: Chat, text: str) -> None:
    ids = byte_chat.reply_ids(text)
    pieces = byte_chat.pieces(ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == byte_chat.text(ids) == text


@settings(deadline=None)
@given(st.lists(st.integers(0, 255), max_size=12))
def test_pieces_of_broken_characters_add_up_too(byte_chat: Chat, ids: list[int]) -> None:
    assert "".join(byte_chat.pieces(ids)) == byte_chat.text(ids)


def test_the_first_stop_string_counts() -> None:
    assert cut_at("abcabc", ["c", "b"]) == 1
    assert cut_at("abc", ["x"]) is None


@pytest.mark.parametrize("body", [None, [], {}, {"detail": "Not Found"}, {"detail": [1]}, {"detail": {"error": "x"}}])
@pytest.mark.parametrize(("status", "shown"), [(404, 404), (422, 400), (429, 429), (503, 503)])
def test_every_error_has_openais_shape(body: Any, status: int, shown: int) -> None:
    code, answer = openai_error(status, body)
    assert code == shown
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert isinstance(answer["error"]["message"], str)
