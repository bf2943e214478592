"""What a model reads: renderers from a view to text. A renderer is deterministic and uses nothing but its arguments."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from envs.crafter.rules import DOWN, ITEM_MAX, LEFT, MATERIAL_ID, RIGHT, UP, VITALS, Direction
from envs.crafter.view import WINDOW, WorldView

LETTERS: dict[Direction, str] = {LEFT: "L", RIGHT: "R", UP: "U", DOWN: "D"}
EDGE = "edge"
COMPACT_WORDS = 95
"""The most words and punctuation marks of a compact text; with 5 more for a chat template it stays at 100 tokens."""

_GROUND = frozenset({"grass", "path", "sand"})
_GROUND_IDS = bytes(MATERIAL_ID[name] for name in sorted(_GROUND))
_NEAR_SHOWN = 7
_WORDS_OF_A_NEAR_THING = 4  # its name, two offsets and a comma

_MAP_REACH = 2
_VOID = "void"
_CALL_CHARS = 500


@dataclass(frozen=True, slots=True)
class Moment:
    """What a text may tell beside the world.

    ``count`` of ``limit`` (None: without end) is the step counter; ``calls`` are the actions of earlier turns, newest
    first, None if they are not to be listed; ``transposed`` turns the local map as the original system did.
    """

    count: int = 0
    limit: int | None = None
    calls: Sequence[Sequence[str]] | None = None
    transposed: bool = False


START = Moment()


class Renderer(Protocol):
    """From a view to the text that a model reads."""

    def __call__(self, view: WorldView, moment: Moment = START) -> str:
        """The text."""
        ...


def compact(view: WorldView, moment: Moment = START) -> str:
    """One line of about 25 tokens: what is in front, blocked, near, low, owned and done. Silent about the ordinary.

    ``face D grass. blocked L. near tree 4L 2D, water 1R. low energy 8. have wood 2. done collect_wood.``

    It never has more than COMPACT_WORDS words: late in a game the farthest near things are left out.
    """
    (x, y), facing, inventory = view.position, view.facing, view.inventory
    front = thing_name(view, x + facing[0], y + facing[1])
    blocked = [letter for step, letter in LETTERS.items() if _blocked(view, x + step[0], y + step[1])]
    low = [f"{name} {inventory[name]}" for name in VITALS if inventory[name] < ITEM_MAX[name]]
    have = [f"{name} {count}" for name, count in inventory.items() if count and name not in VITALS]
    before = [f"face {LETTERS[facing]} {front}.", _sentence("blocked", blocked)]
    after = [
        _sentence("low", low),
        _sentence("have", have),
        "asleep." if view.sleeping else "",
        _sentence("done", view.unlocked),
    ]
    used = sum(part.count(" ") + 2 for part in (*before, *after) if part)  # words, and the full stop of each part
    near = nearest_things(view, min(_NEAR_SHOWN, (COMPACT_WORDS - 1 - used) // _WORDS_OF_A_NEAR_THING))
    return " ".join(part for part in (*before, _sentence("near", near, separator=", "), *after) if part)


def seed(view: WorldView, moment: Moment = START) -> str:
    """The layout of the original playbooks: a few labelled lines and a 5 x 5 map, rows from top to bottom."""
    limit = "" if moment.limit is None else f"/{moment.limit}"
    inventory = [f"{name}:{count}" for name, count in view.inventory.items() if count and name != "health"]
    lines = [
        "=== CRAFTER GAME STATE ===",
        f"Step: {moment.count}{limit}",
        f"Health: {view.inventory['health']}",
        f"Position: {list(view.position)}",
        f"Facing: {list(view.facing)}",
        f"Inventory: {', '.join(inventory) or 'empty'}",
        f"Achievements: {', '.join(view.unlocked) or 'none'}",
        "",
        "Local Map View (5x5):",
        *_local_map(view, moment.transposed),
        "",
        "Choose your next actions.",
    ]
    if moment.calls is not None:
        lines += ["", "Previous tool calls (most recent first):", *(_calls(moment.calls) or ["- none"])]
    return "\n".join(lines)


RENDERERS: dict[str, Renderer] = {"compact": compact, "seed": seed}


def thing_name(view: WorldView, x: int, y: int, outside: str = EDGE) -> str:
    """What is to be seen on a cell: the thing on it, else the material, else ``outside`` of the map."""
    return view.object_at(x, y) or view.material_at(x, y) or outside


def nearest_things(view: WorldView, count: int = _NEAR_SHOWN) -> list[str]:
    """The nearest of each kind in the window that is not plain ground, with its offset: ``tree 4L 2D``."""
    best: dict[str, tuple[int, int, int]] = {}
    for dx, dy, name in view.sights(WINDOW, _GROUND_IDS):
        distance = abs(dx) + abs(dy)
        if distance and (name not in best or distance < best[name][0]):
            best[name] = (distance, dx, dy)
    ranked = sorted((distance, name, dx, dy) for name, (distance, dx, dy) in best.items())
    return [f"{name} {offset(dx, dy)}" for _, name, dx, dy in ranked[:count]]


def offset(dx: int, dy: int) -> str:
    """``3R 1U`` for (3, -1); a zero part is left out."""
    parts = []
    if dx:
        parts.append(f"{abs(dx)}{'R' if dx > 0 else 'L'}")
    if dy:
        parts.append(f"{abs(dy)}{'D' if dy > 0 else 'U'}")
    return " ".join(parts)


def _blocked(view: WorldView, x: int, y: int) -> bool:
    return thing_name(view, x, y) not in _GROUND


def _sentence(word: str, items: Sequence[str], separator: str = " ") -> str:
    return f"{word} {separator.join(items)}." if items else ""


def _local_map(view: WorldView, transposed: bool) -> list[str]:
    """Five lines of five names. The original's lines are columns, and it does not tell a ripe plant from a sapling."""
    x, y = view.position
    reach = range(-_MAP_REACH, _MAP_REACH + 1)
    if transposed:
        names = [[thing_name(view, x + line, y + place, _VOID) for place in reach] for line in reach]
        return [" ".join(line).replace("ripe", "plant") for line in names]
    return [" ".join(thing_name(view, x + place, y + line, _VOID) for place in reach) for line in reach]


def _calls(calls: Sequence[Sequence[str]]) -> list[str]:
    dumped = [json.dumps({"actions": list(actions)}, separators=(",", ":")) for actions in calls]
    return [f"- interact_many: {arguments[:_CALL_CHARS]}" for arguments in dumped]
