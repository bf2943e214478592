"""From a reply to actions, and back. ``parse_actions`` never raises: what is wrong with a reply is told, not thrown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from envs.crafter.aliases import action_named
from envs.crafter.plain_text import plain_names
from envs.crafter.rules import ACTIONS

TOOL_NAME = "interact_many"
SINGLE_TOOL_NAME = "interact"
FALLBACK = ("noop",)

_NAME_KEYS = ("name", "tool", "tool_name")
_ARGUMENTS_KEYS = ("arguments", "args")

# Bounds on the work that a hostile reply can cause: the end of a long text counts, and the first objects in it.
_MAX_TEXT_CHARS = 50_000
_MAX_OBJECTS = 100
_MAX_NAMES_TOLD = 5
_MAX_NAME_CHARS = 40

_DECODER = json.JSONDecoder()
_MISSING = object()


@dataclass(frozen=True, slots=True)
class ParsedReply:
    """Actions to execute, and what was wrong with the reply, if anything."""

    actions: tuple[str, ...]
    problem: str | None = None


def format_reply(actions: Sequence[str]) -> str:
    """The reply that ``parse_actions`` reads back: ``{"actions": ["move_right", "do"]}``."""
    return json.dumps({"actions": list(actions)})


def tool_schema(max_actions: int) -> dict[str, Any]:
    """The tool that is offered to models, in OpenAI's shape: a list of 1 to ``max_actions`` actions."""
    actions = {"type": "array", "items": _an_action(), "minItems": 1, "maxItems": max_actions}
    return _function(TOOL_NAME, "Executes Crafter actions one after the other.", {"actions": actions})


def single_tool_schema() -> dict[str, Any]:
    """The tool for one action per turn, in OpenAI's shape."""
    return _function(SINGLE_TOOL_NAME, "Executes one Crafter action.", {"action": _an_action()})


def _an_action() -> dict[str, Any]:
    return {"type": "string", "enum": list(ACTIONS)}


def _function(name: str, description: str, properties: dict[str, Any]) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def parse_actions(
    reply_text: str,
    extra: Mapping[str, Any],
    max_actions: int,
    *,
    report_cut: bool = True,
    fallback: tuple[str, ...] = FALLBACK,
) -> ParsedReply:
    """Reads the tool calls in ``extra``, else JSON in the text ("actions" before "action"), else plain names.

    Usable actions are kept even if others are not known; more than ``max_actions`` are cut. Both become a ``problem``,
    the cut only with ``report_cut``. Without any usable action the reply stands for ``fallback``.
    """
    names, problems = _requested(reply_text, extra)
    known, unknown = _resolve(names)
    if unknown:
        problems.append(f"unknown actions: {_told(unknown)}")
    if len(known) > max_actions and report_cut:
        problems.append(f"{len(known)} actions, only the first {max_actions} were executed")
    if not known and not problems:
        problems.append("the list of actions is empty")
    return ParsedReply(tuple(known[:max_actions]) or fallback, "; ".join(problems) or None)


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
            continue
        tool = _first(function, _NAME_KEYS)
        if tool not in (TOOL_NAME, SINGLE_TOOL_NAME):
            if action_named(tool):
                names.append(tool)
            else:
                problems.append(f"unknown tool: {_told([tool])}")
        elif (actions := _from_arguments(_first(function, _ARGUMENTS_KEYS))) is None:
            problems.append("a tool call has no list of actions")
        else:
            names.extend(actions)
    return names, problems


def _first(values: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((values[key] for key in keys if key in values), None)


def _from_arguments(arguments: Any) -> list[Any] | None:
    if isinstance(arguments, str):
        arguments = _decode(arguments.strip(), 0)
    if not isinstance(arguments, Mapping):
        return None
    single = _single_action(arguments)
    if single is not None:
        return [single]
    actions = arguments.get("actions")
    return actions if isinstance(actions, list) else None


def _single_action(arguments: Mapping[str, Any]) -> str | None:
    """The name under "action"; a number there is the action's id in the game's own list."""
    action = arguments.get("action")
    if type(action) is int and 0 <= action < len(ACTIONS):
        return ACTIONS[action]
    return action if isinstance(action, str) else None


def _find_actions(text: str) -> Any:
    """The actions that the text asks for; thoughts before ``</think>`` don't count.

    The value of "actions" in the first JSON object that has it, else the first "action" or the first arguments of a
    tool call written as JSON, else plain names.
    """
    answer = text.rpartition("</think>")[2][-_MAX_TEXT_CHARS:]
    second_best: list[Any] | None = None
    for start in _object_starts(answer):
        value = _decode(answer, start)
        if not isinstance(value, dict):
            continue
        if "actions" in value:
            return value["actions"]
        if second_best is None:
            arguments = _first(value, _ARGUMENTS_KEYS)
            second_best = _from_arguments(value if arguments is None else arguments)
    if second_best is None:
        second_best = plain_names(answer)
    return _MISSING if second_best is None else second_best


def _object_starts(text: str) -> Iterator[int]:
    """Positions of the first opening braces that have an "action" or "actions" behind them."""
    last = text.rfind('"action')
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
        action = action_named(name)
        if action is None:
            unknown.append(name)
        else:
            known.append(action)
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
