"""From a reply to actions, and back. ``parse_actions`` never raises: what is wrong with a reply is told, not thrown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from envs.crafter.rules import ACTION_ID, ACTIONS

TOOL_NAME = "interact_many"
FALLBACK = ("noop",)

_TOOL_NAMES = frozenset({TOOL_NAME, "interact"})
_ALIASES = {
    "left": "move_left",
    "right": "move_right",
    "up": "move_up",
    "down": "move_down",
    "interact": "do",
    "use": "do",
    "rest": "sleep",
    **{f"craft_{name[5:]}": name for name in ACTIONS if name.startswith("make_")},
}

# Bounds on the work that a hostile reply can cause: the end of a long text counts, and the first objects in it.
_MAX_TEXT_CHARS = 50_000
_MAX_OBJECTS = 100
_MAX_NAMES_TOLD = 5
_MAX_NAME_CHARS = 40

_DECODER = json.JSONDecoder()
_MISSING = object()


@dataclass(frozen=True, slots=True)
class ParsedReply:
    """Actions to execute (never empty), and what was wrong with the reply, if anything."""

    actions: tuple[str, ...]
    problem: str | None = None


def format_reply(actions: Sequence[str]) -> str:
    """The reply that ``parse_actions`` reads back: ``{"actions": ["move_right", "do"]}``."""
    return json.dumps({"actions": list(actions)})


def tool_schema(max_actions: int) -> dict[str, Any]:
    """The one tool, in OpenAI's shape."""
    return {
        "type": "function",
        "function": {
            "name": TOOL_NAME,
            "description": "Executes Crafter actions one after the other.",
            "parameters": {
                "type": "object",
                "properties": {
                    "actions": {
                        "type": "array",
                        "items": {"type": "string", "enum": list(ACTIONS)},
                        "minItems": 1,
                        "maxItems": max_actions,
                    }
                },
                "required": ["actions"],
                "additionalProperties": False,
            },
        },
    }


def parse_actions(
    reply_text: str, extra: Mapping[str, Any], max_actions: int, *, report_cut: bool = True
) -> ParsedReply:
    """Reads the tool calls in ``extra``, else the first JSON object with "actions" in the text.

    Usable actions are kept even if others are not known; more than ``max_actions`` are cut. Both become a ``problem``,
    the cut only with ``report_cut``. Without any usable action the reply stands for one noop.
    """
    names, problems = _requested(reply_text, extra)
    known, unknown = _resolve(names)
    if unknown:
        problems.append(f"unknown actions: {_told(unknown)}")
    if len(known) > max_actions and report_cut:
        problems.append(f"{len(known)} actions, only the first {max_actions} were executed")
    if not known and not problems:
        problems.append("the list of actions is empty")
    return ParsedReply(tuple(known[:max_actions]) or FALLBACK, "; ".join(problems) or None)


def _requested(reply_text: str, extra: Mapping[str, Any]) -> tuple[list[Any], list[str]]:
    """Names as the reply gives them, and problems on the way to them."""
    calls = extra.get("tool_calls")
    if isinstance(calls, list) and calls:
        names, problems = _from_tool_calls(calls)
        if names:
            return names, problems
        found = _find_actions(reply_text)
        return (found, problems) if isinstance(found, list) else ([], problems or ["the tool call has no actions"])
    found = _find_actions(reply_text)
    if found is _MISSING:
        return [], ['no JSON object {"actions": [...]} in the reply']
    if not isinstance(found, list):
        return [], ['"actions" is not a list']
    return found, []


def _from_tool_calls(calls: list[Any]) -> tuple[list[Any], list[str]]:
    names: list[Any] = []
    problems: list[str] = []
    for call in calls:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping):
            problems.append("a tool call is not an object")
        elif not _is_our_tool(function.get("name")):
            problems.append(f"unknown tool: {_told([function.get('name')])}")
        elif (actions := _from_arguments(function.get("arguments"))) is None:
            problems.append("a tool call has no list of actions")
        else:
            names.extend(actions)
    return names, problems


def _is_our_tool(name: Any) -> bool:
    return isinstance(name, str) and name in _TOOL_NAMES


def _from_arguments(arguments: Any) -> list[Any] | None:
    if isinstance(arguments, str):
        arguments = _decode(arguments.strip(), 0)
    if not isinstance(arguments, Mapping):
        return None
    if isinstance(arguments.get("action"), str):
        return [arguments["action"]]
    actions = arguments.get("actions")
    return actions if isinstance(actions, list) else None


def _find_actions(text: str) -> Any:
    """The value of "actions" in the first JSON object that has it; thoughts before ``</think>`` don't count."""
    answer = text.rpartition("</think>")[2][-_MAX_TEXT_CHARS:]
    for start in _object_starts(answer):
        value = _decode(answer, start)
        if isinstance(value, dict) and "actions" in value:
            return value["actions"]
    return _MISSING


def _object_starts(text: str) -> Iterator[int]:
    """Positions of the first opening braces that have an "actions" behind them."""
    last = text.rfind('"actions"')
    start = text.find("{", 0, max(last, 0))
    for _ in range(_MAX_OBJECTS):
        if start < 0:
            return
        yield start
        start = text.find("{", start + 1, last)


def _decode(text: str, start: int) -> Any:
    """The JSON value at ``start``, or None. A huge number raises ValueError, deep nesting RecursionError."""
    try:
        return _DECODER.raw_decode(text, start)[0]
    except (ValueError, RecursionError):
        return None


def _resolve(names: list[Any]) -> tuple[list[str], list[Any]]:
    known: list[str] = []
    unknown: list[Any] = []
    for name in names:
        cleaned = name.strip().lower() if isinstance(name, str) else ""
        action = _ALIASES.get(cleaned, cleaned)
        if action in ACTION_ID:
            known.append(action)
        else:
            unknown.append(name)
    return known, unknown


def _told(names: list[Any]) -> str:
    """Names made safe and short for a message: plain ASCII, no control characters."""
    shown = [_safe(name) for name in names[:_MAX_NAMES_TOLD]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _safe(name: Any) -> str:
    if not isinstance(name, str):
        return f"<{type(name).__name__}>"
    short = name if len(name) <= _MAX_NAME_CHARS else name[:_MAX_NAME_CHARS] + "..."
    return json.dumps(short)
