"""From the JSON of a chat completion to a Reply. Never raises: a reply that makes no sense is one without actions."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from synth_ray.core.types import Reply

_MAX_CALLS = 32
_MAX_ID = 2**31
_USAGE = {"prompt_tokens": "input_tokens", "completion_tokens": "output_tokens", "total_tokens": "total_tokens"}
_THINK, _END_THINK = "<think>", "</think>"


def read_reply(value: Mapping[str, Any]) -> Reply:
    """The first choice's text, tool calls, thoughts, usage, and token ids with log-probs if the endpoint gives them.

    ``extra["problem"]`` says what is wrong with a reply that can't be used; thoughts are in ``extra["reasoning"]``.
    """
    choices = value.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, Mapping) else None
    usage = _usage(value.get("usage"))
    if not isinstance(choice, Mapping) or not isinstance(message, Mapping):
        return invalid_reply("the endpoint's answer has no message", usage)
    calls = _tool_calls(message.get("tool_calls"))
    if calls is None:
        return invalid_reply("the tool calls have the wrong shape", usage)
    text = _text(message.get("content"))
    if text is None:
        return invalid_reply("the content is neither text nor a list of texts", usage)
    text, thoughts = _without_thoughts(text)
    given = message.get("reasoning_content") or message.get("reasoning")
    reasoning = given if isinstance(given, str) else thoughts
    refusal = message.get("refusal")
    extra: dict[str, Any] = {
        **({"tool_calls": calls} if calls else {}),
        **({"reasoning": reasoning} if reasoning else {}),
        **({"refusal": refusal} if refusal and isinstance(refusal, str) else {}),
        **({} if text or calls else {"problem": "the reply is empty"}),
    }
    token_ids, logprobs = _tokens(choice)
    return Reply(
        text=text,
        extra=extra,
        prompt_ids=_ids(value.get("prompt_token_ids")),
        token_ids=token_ids,
        logprobs=logprobs,
        finish_reason=_word(choice.get("finish_reason")) or "unknown",
        weights_name=_word(value.get("model")),
        usage=usage,
    )


def invalid_reply(problem: str, usage: Mapping[str, int] | None = None) -> Reply:
    """A reply without text, which counts as an invalid turn."""
    return Reply(text="", extra={"problem": problem}, finish_reason="invalid", usage=usage or {})


def _text(content: Any) -> str | None:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    parts = [part.get("text") for part in content if isinstance(part, Mapping)]
    return "".join(part for part in parts if isinstance(part, str))


def _without_thoughts(text: str) -> tuple[str, str]:
    """Text and thoughts; thoughts without an end have no text after them, and some templates leave out their start."""
    before, end, after = text.rpartition(_END_THINK)
    if end:
        return after.strip(), before.strip().removeprefix(_THINK).strip()
    if text.lstrip().startswith(_THINK):
        return "", text.lstrip().removeprefix(_THINK).strip()
    return text, ""


def _tool_calls(calls: Any) -> list[dict[str, Any]] | None:
    """Calls in OpenAI's shape, arguments as JSON text; None if they have another shape."""
    if calls is None:
        return []
    if not isinstance(calls, list):
        return None
    found = [_tool_call(call) for call in calls[:_MAX_CALLS]]
    return None if None in found else [call for call in found if call is not None]


def _tool_call(call: Any) -> dict[str, Any] | None:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        return None
    arguments = function.get("arguments", "{}")
    try:
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, allow_nan=False)
    except RecursionError:
        return None
    function_json = {"name": function["name"], "arguments": text}
    return {"id": _word(call.get("id")), "type": "function", "function": function_json}


def _usage(usage: Any) -> dict[str, int]:
    given = usage if isinstance(usage, Mapping) else {}
    counts = {ours: _count(given.get(theirs)) for theirs, ours in _USAGE.items()}
    details = given.get("completion_tokens_details")
    counts["reasoning_tokens"] = _count(details.get("reasoning_tokens")) if isinstance(details, Mapping) else None
    return {name: count for name, count in counts.items() if count is not None}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_ID else None


def _tokens(choice: Mapping[str, Any]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Ids and log-probs as far as they are given; ids that don't match the log-probs in number are dropped."""
    given = choice.get("logprobs")
    content = given.get("content") if isinstance(given, Mapping) else None
    found = [_logprob(entry) for entry in content] if isinstance(content, list) else []
    logprobs = () if None in found else tuple(one for one in found if one is not None)
    ids = _ids(choice.get("token_ids"))
    return (ids if not logprobs or len(ids) == len(logprobs) else ()), logprobs


def _logprob(entry: Any) -> float | None:
    value = entry.get("logprob") if isinstance(entry, Mapping) else None
    if isinstance(value, int) and abs(value) < _MAX_ID:
        return float(value)
    return value if isinstance(value, float) and math.isfinite(value) else None


def _ids(values: Any) -> tuple[int, ...]:
    """Token ids, or nothing if one of them is none."""
    ids = [_count(value) for value in values] if isinstance(values, list) else []
    return () if None in ids else tuple(one for one in ids if one is not None)


def _word(value: Any) -> str:
    """A short field as text without lone surrogates, which UTF-8 does not have."""
    return value[:200].encode("utf-8", "replace").decode() if isinstance(value, str) else ""
