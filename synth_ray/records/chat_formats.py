"""Chat messages as OpenAI and as TRL want them: they differ in tool calls only.

OpenAI: a tool call's ``arguments`` are JSON text. TRL: ``arguments`` are an object, and ``tool`` messages also carry
the ``name`` of the tool that answered. Going there and back is the identity on messages with canonical JSON arguments.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from synth_ray.core.hashing import canonical_json

ChatMessage = Mapping[str, Any]


def to_openai(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Arguments as canonical JSON text; tool messages without ``name``."""
    return [_without_tool_name(_with_arguments(message, _as_text)) for message in messages]


def to_trl(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Arguments as objects; tool messages with ``name``. Raises ValueError if arguments are no JSON object."""
    names = dict(_named_calls(messages))
    return [_with_tool_name(_with_arguments(message, _as_object), names) for message in messages]


FORMATS: Mapping[str, Callable[[Sequence[ChatMessage]], list[dict[str, Any]]]] = {"openai": to_openai, "trl": to_trl}


def _with_arguments(message: ChatMessage, convert: Callable[[Any], Any]) -> dict[str, Any]:
    calls = message.get("tool_calls")
    return {**message, "tool_calls": [_converted(call, convert) for call in calls]} if calls else dict(message)


def _converted(call: Any, convert: Callable[[Any], Any]) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or "arguments" not in function:
        return call
    return {**call, "function": {**function, "arguments": convert(function["arguments"])}}


def _as_text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else canonical_json(arguments)


def _as_object(arguments: Any) -> dict[str, Any]:
    value = json.loads(arguments) if isinstance(arguments, str) else arguments
    if not isinstance(value, Mapping):
        raise ValueError(f"tool arguments are no JSON object: {arguments!r:.80}")
    return dict(value)


def _without_tool_name(message: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in message.items() if key != "name"} if message["role"] == "tool" else message


def _with_tool_name(message: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    name = names.get(str(message.get("tool_call_id"))) if message["role"] == "tool" else None
    return {**message, "name": name} if name else message


def _named_calls(messages: Sequence[ChatMessage]) -> Iterable[tuple[str, str]]:
    for message in messages:
        for call in message.get("tool_calls") or ():
            if isinstance(call, Mapping) and isinstance(call.get("function"), Mapping) and call.get("id"):
                yield str(call["id"]), str(call["function"].get("name", ""))
