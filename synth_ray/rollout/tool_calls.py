"""Tool calls in any spelling: flat (``tool_name`` or ``tool``, ``arguments`` or ``args``) or OpenAI's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from synth_ray.core.json_depth import too_deep
from synth_ray.core.types import Turn

TOOL_NAME = "interact_many"


def tool_calls(turn: Turn) -> list[dict[str, Any]]:
    """The calls of the reply as it made them, else the actions that were read from its text; flat."""
    asked = turn.reply.extra.get("tool_calls")
    calls = [flat_call(call) for call in asked if isinstance(call, Mapping)] if isinstance(asked, list) else []
    return calls or [{"tool_name": TOOL_NAME, "arguments": {"actions": list(turn.facts.actions)}}]


def flat_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """``{"tool_name", "arguments", "id"?}``; arguments are an object where they are JSON that can be encoded again."""
    function = call.get("function")
    inner = function if isinstance(function, Mapping) else call
    name = next((inner[key] for key in ("tool_name", "tool", "name") if isinstance(inner.get(key), str)), "")
    arguments = inner.get("arguments", inner.get("args"))
    if isinstance(arguments, str):
        arguments = _parsed(arguments)
    named = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return {"tool_name": name, "arguments": arguments, **named}


def openai_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's nested shape, which a task reads."""
    flat = flat_call(call)
    return {"type": "function", "function": {"name": flat["tool_name"], "arguments": flat["arguments"]}}


def _parsed(text: str) -> Any:
    if too_deep(text):
        return {"text": text}
    try:
        return json.loads(text, parse_constant=_refuse)
    except ValueError:
        return {"text": text}


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
