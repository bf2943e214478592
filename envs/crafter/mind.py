"""What the expert believes: the map, what stands on it, itself. Imagination changes it, the next look mends it.

Cells are indices into flat arrays with a border around the map, so a neighbour is an addition and the edge a code.
``ground`` holds material ids; ``seen`` shows the same with things on top (``THING_CODE``).
"""

from __future__ import annotations

import numpy as np

from envs.crafter.rules import DIRECTIONS, MATERIAL_ID, MOVES, Direction
from envs.crafter.view import WINDOW, WorldView

UNKNOWN = 0
BORDER = 255
THING_CODE = {kind: 100 + i for i, kind in enumerate(("cow", "zombie", "skeleton", "arrow", "plant", "ripe"))}

WINDOW_MODE = "window"
MEMORY_MODE = "memory"
FULL_MODE = "full"

_DARK = 0.4


class Mind:
    """The state that the expert's rules read. ``horizon`` is the number of steps that the game will last."""

    ground: bytearray
    seen: bytearray

    def __init__(self, mode: str, horizon: int, random: np.random.Generator) -> None:
        self.mode = mode
        self.horizon = horizon
        self.random = random
        self.forget()

    def forget(self) -> None:
        """Before a new episode."""
        self._known = bytearray()
        self.heading: Direction = DIRECTIONS[int(self.random.integers(4))]

    def look(self, view: WorldView) -> None:
        """Takes in what the mode allows to see."""
        width, height = view.area
        self.width, self.height, self.stride = width, height, height + 2
        if self.mode != MEMORY_MODE or not self._known:
            self._known = _blank(width, height)
        x, y = view.position
        dx, dy = view.area if self.mode == FULL_MODE else WINDOW
        left, right, top, bottom = max(0, x - dx), min(width, x + dx + 1), max(0, y - dy), min(height, y + dy + 1)
        materials = view.materials
        for column in range(left, right):
            start = (column + 1) * self.stride + 1
            self._known[start + top : start + bottom] = materials[column * height + top : column * height + bottom]
        self.ground = bytearray(self._known)
        self.seen = bytearray(self._known)
        for kind, (ox, oy) in view.objects():
            if left <= ox < right and top <= oy < bottom:
                self.seen[self.cell_of(ox, oy)] = THING_CODE[kind]
        self._look_at_oneself(view)

    def _look_at_oneself(self, view: WorldView) -> None:
        self.cell = self.cell_of(*view.position)
        self.facing = self.offset_of(view.facing)
        self.inventory = dict(view.inventory)
        self.achieved = set(view.unlocked)
        self.sleeping = view.sleeping
        self.step = view.step_count
        self.dark = view.daylight < _DARK
        self.hits: dict[int, int] = {}

    @property
    def left(self) -> int:
        """Steps left to play."""
        return self.horizon - self.step

    @property
    def front(self) -> int:
        """The cell in front."""
        return self.cell + self.facing

    @property
    def offsets(self) -> tuple[int, ...]:
        """Index differences to the four neighbours, in the order of ``DIRECTIONS``."""
        return (-self.stride, self.stride, -1, 1)

    def cell_of(self, x: int, y: int) -> int:
        """Index of a map position."""
        return (x + 1) * self.stride + y + 1

    def offset_of(self, direction: Direction) -> int:
        """Index difference of a unit step."""
        return direction[0] * self.stride + direction[1]

    def move_name(self, offset: int) -> str:
        """The action that walks by an index difference."""
        return _MOVE_NAMES[self.offsets.index(offset)]

    def lacks(self, *achievements: str) -> bool:
        """Whether any of these is not achieved yet."""
        return not self.achieved.issuperset(achievements)

    def sees(self, code: int) -> bool:
        """Whether a material or thing is anywhere in what is known."""
        return code in self.seen

    def near(self, material: int, distance: int = 1) -> bool:
        """Whether a material is in the square around the player; not at the left and top edge (a quirk)."""
        x, y = divmod(self.cell, self.stride)
        x, y = x - 1, y - 1
        if x < distance or y < distance:
            return False
        bottom = min(y + distance, self.height - 1)
        return any(
            material in self.ground[self.cell_of(column, y - distance) : self.cell_of(column, bottom) + 1]
            for column in range(x - distance, min(x + distance, self.width - 1) + 1)
        )


_MOVE_NAMES = tuple(name for direction in DIRECTIONS for name, step in MOVES.items() if step == direction)


def _blank(width: int, height: int) -> bytearray:
    column = bytes([BORDER]) + bytes([UNKNOWN]) * height + bytes([BORDER])
    edge = bytes([BORDER]) * (height + 2)
    return bytearray(edge + column * width + edge)


def codes(*names: str) -> tuple[int, ...]:
    """Codes of materials and things by name."""
    return tuple(THING_CODE[name] if name in THING_CODE else MATERIAL_ID[name] for name in names)
