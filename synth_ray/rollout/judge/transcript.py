"""A rollout as text for a judge: one JSON line of facts, then one per turn, within a number of characters.

What the player wrote may be meant for the judge. So everything is a JSON string without raw line breaks, non-ASCII
characters, or angle brackets: no text can end the fence around the transcript or begin a chat role. Names of models and
rollouts are left out, so equal play reads equal. Every turn stays; long texts are cut, all to the same length.
"""

from __future__ import annotations

import json
from typing import Any

from synth_ray.core.types import Rollout, Turn

_CUTS = (8000, 4000, 2000, 1000, 500, 250, 120, 60, 20)


def transcript(rollout: Rollout, max_chars: int) -> str | None:
    """The text, with the longest cut that fits; None if the rollout has too many turns for ``max_chars``."""
    for cut in _CUTS:
        lines = [_line(_facts(rollout)), *(_line(_turn(turn, at, cut)) for at, turn in enumerate(rollout.turns))]
        text = "\n".join(lines)
        if len(text) <= max_chars:
            return text
    return None


def _facts(rollout: Rollout) -> dict[str, Any]:
    return {
        "task": rollout.task,
        "turns": len(rollout.turns),
        "ended_by": rollout.stop_reason.value,
        "achievements": list(rollout.achievements),
    }


def _turn(turn: Turn, at: int, cut: int) -> dict[str, Any]:
    """Facts come from the world, ``thought`` and ``said`` from the player."""
    facts, extra = turn.facts, turn.reply.extra
    thought = extra.get("reasoning")
    shown = turn.messages[-1].content if turn.messages else ""
    return {
        "turn": at,
        "shown": _cut(shown, cut),
        **({"thought": _cut(thought, cut)} if isinstance(thought, str) and thought else {}),
        "said": _cut(turn.reply.text, cut),
        "actions": [_cut(one, 60) for one in facts.actions],
        **({"achieved": list(facts.unlocked)} if facts.unlocked else {}),
        **({"gained": dict(facts.inventory_delta)} if facts.inventory_delta else {}),
        **({"unusable": _cut(facts.problem, 120)} if facts.problem is not None else {}),
        **({"died_or_done": True} if facts.done else {}),
    }


def _cut(text: str, cut: int) -> str:
    if len(text) <= cut:
        return text
    return f"{text[: cut - cut // 3]} ...({len(text) - cut} characters left out)... {text[len(text) - cut // 3 :]}"


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value).replace("<", "\\u003c").replace(">", "\\u003e")
