"""What a model reads: renderers from a view to text. A renderer is deterministic and uses nothing but the view."""

from __future__ import annotations

from collections.abc import Callable

from envs.crafter.rules import DOWN, ITEM_MAX, LEFT, RIGHT, UP, VITALS, Direction
from envs.crafter.view import WINDOW, WorldView

Renderer = Callable[[WorldView], str]

LETTERS: dict[Direction, str] = {LEFT: "L", RIGHT: "R", UP: "U", DOWN: "D"}
EDGE = "edge"

_GROUND = frozenset({"grass", "path", "sand"})
_NEAR_SHOWN = 7


def compact(view: WorldView) -> str:
    """One line of about 25 tokens: what is in front, blocked, near, low, owned and done. Silent about the ordinary.

    ``face D grass. blocked L. near tree 4L 2D, water 1R. low energy 8. have wood 2. done collect_wood.``
    """
    x, y = view.position
    front = thing_name(view, x + view.facing[0], y + view.facing[1])
    parts = [
        f"face {LETTERS[view.facing]} {front}.",
        _sentence("blocked", [letter for step, letter in LETTERS.items() if _blocked(view, x + step[0], y + step[1])]),
        _sentence("near", nearest_things(view), separator=", "),
        _sentence(
            "low", [f"{name} {view.inventory[name]}" for name in VITALS if view.inventory[name] < ITEM_MAX[name]]
        ),
        _sentence("have", [f"{name} {n}" for name, n in view.inventory.items() if n and name not in VITALS]),
        "asleep." if view.sleeping else "",
        _sentence("done", view.unlocked),
    ]
    return " ".join(part for part in parts if part)


RENDERERS: dict[str, Renderer] = {"compact": compact}


def thing_name(view: WorldView, x: int, y: int) -> str:
    """What is to be seen on a cell: the thing on it, else the material, else the edge of the map."""
    return view.object_at(x, y) or view.material_at(x, y) or EDGE


def nearest_things(view: WorldView) -> list[str]:
    """The nearest of each kind in the window that is not plain ground, with its offset: ``tree 4L 2D``."""
    x, y = view.position
    best: dict[str, tuple[int, int, int]] = {}
    for dx in range(-WINDOW[0], WINDOW[0] + 1):
        for dy in range(-WINDOW[1], WINDOW[1] + 1):
            name = thing_name(view, x + dx, y + dy)
            distance = abs(dx) + abs(dy)
            if name in _GROUND or name == EDGE or distance == 0:
                continue
            if name not in best or distance < best[name][0]:
                best[name] = (distance, dx, dy)
    ranked = sorted((distance, name, dx, dy) for name, (distance, dx, dy) in best.items())
    return [f"{name} {offset(dx, dy)}" for _, name, dx, dy in ranked[:_NEAR_SHOWN]]


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


def _sentence(word: str, items: list[str] | tuple[str, ...], separator: str = " ") -> str:
    return f"{word} {separator.join(items)}." if items else ""
