"""What every thing on the map has in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from envs.crafter.grid import OTHERS, World
from envs.crafter.rules import WALKABLE, Direction, Position

if TYPE_CHECKING:
    from envs.crafter.player import Player


class Thing:
    """Something that stands on a cell, has health, and acts once per step while the player is near.

    The world knows its things; they are handed it when they act, so that a world is freed when its last user is gone.
    """

    group: ClassVar[int] = OTHERS
    walkable: ClassVar[bytes] = WALKABLE
    initial_health: ClassVar[int] = 0

    def __init__(self, world: World, pos: Position) -> None:
        self.random = world.random
        self.pos = pos
        self.inventory = {"health": self.initial_health}
        self.removed = False
        self.index = 0
        self.chunk = 0

    @property
    def kind(self) -> str:
        """Name that the view shows."""
        return type(self).__name__.lower()

    @property
    def texture(self) -> str:
        """Name of the picture that upstream's renderer draws."""
        return self.kind

    @property
    def health(self) -> int:
        """Points left; never below zero."""
        return self.inventory["health"]

    @health.setter
    def health(self, value: int) -> None:
        self.inventory["health"] = max(0, value)

    def update(self, world: World) -> None:
        """Acts for one step."""

    def struck_by(self, player: Player, damage: int) -> None:
        """What the player's ``do`` on this thing causes; nothing by default."""

    def move(self, world: World, direction: Direction) -> bool:
        """Steps to the next cell if it is free; says whether it was."""
        x = self.pos[0] + direction[0]
        y = self.pos[1] + direction[1]
        if 0 <= x < world.width and 0 <= y < world.height:
            cell = x * world.height + y
            if not world.thing_ids[cell] and self.walkable[world.material[cell]]:
                world.move(self, x, y)
                return True
        return False

    def distance(self, pos: Position) -> int:
        """Manhattan distance."""
        return abs(self.pos[0] - pos[0]) + abs(self.pos[1] - pos[1])

    def toward(self, other: Thing, long_axis: bool = True) -> Direction:
        """The direction to another thing along the longer (or the shorter) axis."""
        dx = other.pos[0] - self.pos[0]
        dy = other.pos[1] - self.pos[1]
        if (abs(dx) > abs(dy)) == long_axis:
            return (dx > 0) - (dx < 0), 0
        return 0, (dy > 0) - (dy < 0)
