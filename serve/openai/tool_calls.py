"""Tool calls in a reply: Hermes blocks, ``{"name", "arguments"}``, or an object that fits one tool's parameters."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from synth_ray.core.hashing import canonical_json

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_THOUGHT_END = "</think>"
_MAX_CALLS = 64
_MAX_TRIES = 16

Found = tuple[str, Mapping[str, Any]]


def find_tool_calls(text: str, tools: Sequence[Mapping[str, Any]]) -> tuple[str, list[Found]]:
    """What a reply says beside its calls, and the calls of ``tools`` in it by name and arguments."""
    if not tools:
        return text, []
    thought, end, said = text.rpartition(_THOUGHT_END)
    rest, calls = _blocks(said, tools) if _OPEN in said else _bare(said, tools)
    return (f"{thought}{end}{rest}".strip(), calls) if calls else (text, [])


def openai_calls(calls: Sequence[Found]) -> list[dict[str, Any]]:
    """The calls in OpenAI's shape."""
    return [
        {
            "id": f"call_{secrets.token_hex(12)}",
            "type": "function",
            "function": {"name": name, "arguments": canonical_json(dict(arguments))},
        }
        for name, arguments in calls
    ]


def _blocks(text: str, tools: Sequence[Mapping[str, Any]]) -> tuple[str, list[Found]]:
    before, *blocks = text.split(_OPEN, _MAX_CALLS)
    rest, calls = [before], []
    for block in blocks:
        inside, _, after = block.partition(_CLOSE)
        call = _as_call(_parsed(inside), tools)
        if call is None:
            rest.append(_OPEN + block)
        else:
            calls.append(call)
            rest.append(after)
    return "".join(rest), calls


def _bare(text: str, tools: Sequence[Mapping[str, Any]]) -> tuple[str, list[Found]]:
    """The first JSON object in the text that is a call."""
    decoder = json.JSONDecoder(parse_constant=_refuse)
    start = text.find("{")
    for _ in range(_MAX_TRIES):
        if start < 0:
            break
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            value, end = None, start + 1
        call = _as_call(value, tools)
        if call is not None:
            return text[:start] + text[end:], [call]
        start = text.find("{", end)
    return text, []


def _as_call(value: Any, tools: Sequence[Mapping[str, Any]]) -> Found | None:
    if not isinstance(value, dict):
        return None
    names = [tool["function"]["name"] for tool in tools]
    arguments = value.get("arguments", value.get("parameters"))
    if value.get("name") in names and set(value) <= {"name", "arguments", "parameters", "id"}:
        inner = _parsed(arguments) if isinstance(arguments, str) else arguments
        return (value["name"], inner or {}) if isinstance(inner, dict | None) else None
    return next(((tool["function"]["name"], value) for tool in tools if _fits(value, tool["function"])), None)


def _fits(value: Mapping[str, Any], function: Mapping[str, Any]) -> bool:
    parameters = function.get("parameters") or {}
    properties, required = parameters.get("properties"), parameters.get("required")
    known = set(properties) if isinstance(properties, Mapping) else set()
    needed = {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()
    return bool(value) and needed <= set(value) <= known


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
