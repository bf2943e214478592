"""The world's map: materials, the things on them, and the books that the balance of creatures is kept by.

Invariants: a cell holds at most one thing; things, chunks and the members of a chunk keep the order of insertion
(upstream keeps the members in a ``set`` ordered by memory address, which makes two runs of one seed differ); ``space``
always equals a fresh count of grass and path cells per chunk.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from envs.crafter.rng import Rng
from envs.crafter.rules import MATERIAL_ID, MATERIALS, Position
from envs.crafter.terrain import CHUNK, Terrain

if TYPE_CHECKING:
    from envs.crafter.player import Player
    from envs.crafter.thing import Thing

ZOMBIES, SKELETONS, COWS, OTHERS = range(4)

# Dicts are used as ordered sets: zombies, skeletons, cows, others.
Groups = tuple["dict[Thing, None]", "dict[Thing, None]", "dict[Thing, None]", "dict[Thing, None]"]


class World:
    """Materials and things by cell. Cell (x, y) has index ``x * height + y`` in the flat arrays."""

    player: Player

    def __init__(self, area: Position) -> None:
        self.area = area
        self.width, self.height = area
        self.chunk_rows = -(-self.height // CHUNK[1])
        self.random = Rng(0)
        self.step = 0
        self.daylight = 0.0
        self.material = bytearray(self.width * self.height)
        self.things: dict[int, Thing] = {}
        self.comings_and_goings = 0
        self.chunks: dict[int, Groups] = {}

    def load(self, terrain: Terrain) -> None:
        """Starts over with a generated map, without any thing on it."""
        self.step = 0
        self.daylight = 0.0
        self.material[:] = terrain.material
        self.thing_ids = array("I", bytes(4 * len(self.material)))
        self.space = {kind: list(counts) for kind, counts in terrain.space.items()}
        self.things = {}
        self.chunks = {}
        self.next_id = 1
        self.random.setstate(terrain.rng_state)

    @property
    def objects(self) -> list[Thing]:
        """All things, oldest first (upstream's name, used by its renderer)."""
        return list(self.things.values())

    @property
    def material_map(self) -> npt.NDArray[np.uint8]:
        """Material ids as a (width, height) array on the same memory."""
        return np.frombuffer(self.material, np.uint8).reshape(self.area)

    def __getitem__(self, pos: Position) -> tuple[str | None, Thing | None]:
        """Upstream's accessor: name of the material and the thing, both None outside of the map."""
        x, y = int(pos[0]), int(pos[1])
        if not (0 <= x < self.width and 0 <= y < self.height):
            return None, None
        cell = x * self.height + y
        return MATERIALS[self.material[cell]], self.things.get(self.thing_ids[cell])

    def __setitem__(self, pos: Position, material: str) -> None:
        """Upstream's accessor: changes the material of a cell inside the map."""
        self.set_material(int(pos[0]), int(pos[1]), MATERIAL_ID[material])

    def material_at(self, x: int, y: int) -> int:
        """Material id, 0 outside of the map."""
        if 0 <= x < self.width and 0 <= y < self.height:
            return self.material[x * self.height + y]
        return 0

    def thing_at(self, x: int, y: int) -> Thing | None:
        """The thing on a cell, None outside of the map."""
        if 0 <= x < self.width and 0 <= y < self.height:
            return self.things.get(self.thing_ids[x * self.height + y])
        return None

    def is_free(self, x: int, y: int, walkable: bytes) -> bool:
        """Whether a cell is inside the map, empty, and of a walkable material."""
        if 0 <= x < self.width and 0 <= y < self.height:
            cell = x * self.height + y
            return not self.thing_ids[cell] and walkable[self.material[cell]] == 1
        return False

    def set_material(self, x: int, y: int, material: int) -> None:
        """Changes a cell and the counts that balance reads."""
        cell = x * self.height + y
        before = self.material[cell]
        if before == material:
            return
        self.material[cell] = material
        chunk = self._chunk(x, y)
        if before in self.space:
            self.space[before][chunk] -= 1
        if material in self.space:
            self.space[material][chunk] += 1

    def add(self, thing: Thing) -> None:
        """Puts a new thing on its (free) cell."""
        x, y = thing.pos
        thing.index = self.next_id
        self.next_id += 1
        self.thing_ids[x * self.height + y] = thing.index
        self.things[thing.index] = thing
        self.comings_and_goings += 1
        self._join(thing, self._chunk(x, y))

    def remove(self, thing: Thing) -> None:
        """Takes a thing off the map; it may still act in the step that it is removed in, as upstream's do."""
        if thing.removed:
            return
        x, y = thing.pos
        self.thing_ids[x * self.height + y] = 0
        del self.things[thing.index]
        self.comings_and_goings += 1
        del self.chunks[thing.chunk][thing.group][thing]
        thing.removed = True

    def move(self, thing: Thing, x: int, y: int) -> None:
        """Moves a thing to a free cell."""
        if thing.removed:
            return
        height = self.height
        old_x, old_y = thing.pos
        self.thing_ids[x * height + y] = thing.index
        self.thing_ids[old_x * height + old_y] = 0
        thing.pos = (x, y)
        chunk = x // CHUNK[0] * self.chunk_rows + y // CHUNK[1]
        if chunk != thing.chunk:
            del self.chunks[thing.chunk][thing.group][thing]
            self._join(thing, chunk)

    def chunk_area(self, chunk: int) -> tuple[int, int, int, int]:
        """The half-open ranges xmin, xmax, ymin, ymax of a chunk."""
        column, row = divmod(chunk, self.chunk_rows)
        x, y = column * CHUNK[0], row * CHUNK[1]
        return x, min(x + CHUNK[0], self.width), y, min(y + CHUNK[1], self.height)

    def near_materials(self, pos: Position, distance: int) -> set[int]:
        """Material ids around a position. Empty when the square reaches over the left or top edge, as upstream."""
        x, y = pos
        square = self.material_map[x - distance : x + distance + 1, y - distance : y + distance + 1]
        return set(square.ravel().tolist())

    def _chunk(self, x: int, y: int) -> int:
        return x // CHUNK[0] * self.chunk_rows + y // CHUNK[1]

    def _join(self, thing: Thing, chunk: int) -> None:
        groups = self.chunks.get(chunk)
        if groups is None:
            groups = self.chunks[chunk] = ({}, {}, {}, {})
        groups[thing.group][thing] = None
        thing.chunk = chunk
