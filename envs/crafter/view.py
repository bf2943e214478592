"""The read-only window through which text, expert and task see a world."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from envs.crafter.grid import World
from envs.crafter.rules import MATERIALS, Direction, Position

# Half of the 9 x 7 cells that upstream's pictures show around the player.
WINDOW: Position = (4, 3)


class WorldView:
    """A live view of the world since its last reset: properties answer for now, nothing can be changed through it."""

    def __init__(self, world: World) -> None:
        self._world = world

    @property
    def area(self) -> Position:
        """Width and height of the map."""
        return self._world.area

    @property
    def position(self) -> Position:
        """Cell of the player; x grows to the right, y downwards."""
        return self._world.player.pos

    @property
    def facing(self) -> Direction:
        """Unit step to the cell in front of the player."""
        return self._world.player.facing

    @property
    def sleeping(self) -> bool:
        """Whether the player sleeps."""
        return self._world.player.sleeping

    @property
    def inventory(self) -> Mapping[str, int]:
        """Amount of every item, vitals first, in the order of data.yaml."""
        return MappingProxyType(self._world.player.inventory)

    @property
    def achievements(self) -> Mapping[str, int]:
        """How often each of the 22 achievements was earned, in the order of data.yaml."""
        return MappingProxyType(self._world.player.achievements)

    @property
    def unlocked(self) -> tuple[str, ...]:
        """Achievements earned at least once, in the order of data.yaml."""
        return tuple(name for name, count in self._world.player.achievements.items() if count)

    @property
    def daylight(self) -> float:
        """From 0 (night) to 1 (day)."""
        return self._world.daylight

    @property
    def step_count(self) -> int:
        """Steps since the reset."""
        return self._world.step

    @property
    def materials(self) -> memoryview:
        """Material ids (``rules.MATERIALS``), cell by cell: (x, y) is at ``x * height + y``. Read-only."""
        return memoryview(self._world.material).toreadonly()

    def material_at(self, x: int, y: int) -> str | None:
        """Name of a cell's material, None outside of the map."""
        return MATERIALS[self._world.material_at(x, y)]

    def object_at(self, x: int, y: int) -> str | None:
        """Kind of the thing on a cell: player, cow, zombie, skeleton, arrow, plant, ripe; None if there is none."""
        thing = self._world.thing_at(x, y)
        return None if thing is None else thing.kind

    def sights(self, reach: Position, ordinary: bytes) -> Iterator[tuple[int, int, str]]:
        """Offset and name of what is on the cells around the player, column by column.

        Cells without a thing whose material id is in ``ordinary`` are left out; so is what is outside of the map.
        """
        world = self._world
        x, y = world.player.pos
        top, bottom = max(y - reach[1], 0), min(y + reach[1] + 1, world.height)
        for column in range(max(x - reach[0], 0), min(x + reach[0] + 1, world.width)):
            cells = slice(column * world.height + top, column * world.height + bottom)
            materials, ids = world.material[cells], world.thing_ids[cells]
            if not (materials.translate(None, ordinary) or any(ids)):
                continue
            for row, (material, index) in enumerate(zip(materials, ids, strict=True), start=top):
                name = world.things[index].kind if index else MATERIALS[material]
                if name is not None and (index or material not in ordinary):
                    yield column - x, row - y, name

    def objects(self) -> Iterator[tuple[str, Position]]:
        """Kind and cell of every thing but the player, oldest first."""
        player = self._world.player
        return ((thing.kind, thing.pos) for thing in self._world.objects if thing is not player)
