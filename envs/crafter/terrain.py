"""Generated worlds: a pure function of (seed, area), remembered for the worlds used last."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from envs.crafter import kernels
from envs.crafter.rng import State, state_of
from envs.crafter.rules import GRASS, PATH, WALKABLE, Position

CHUNK: Position = (12, 12)

# A training group plays one seed many times; a world takes about 40 kB.
_WORLDS_KEPT = 128
_DRAWS_PER_CELL = 6


@dataclass(frozen=True, slots=True)
class Terrain:
    """A world before the first step: material ids cell by cell (x * height + y), creatures, and the RNG after it all.

    ``space`` counts, for grass and path, the cells of each chunk.
    """

    area: Position
    material: bytes
    creatures: tuple[tuple[int, int, int], ...]
    rng_state: State
    space: dict[int, tuple[int, ...]]


@functools.lru_cache(maxsize=_WORLDS_KEPT)
def generate(seed: int, area: Position) -> Terrain:
    """The world that upstream generates for this seed, with the player in the middle."""
    random = np.random.RandomState(seed)
    perm, grad = kernels.simplex_tables(random.randint(0, 2**31 - 1))
    noise = np.empty(area)
    kernels.start_noise(perm, grad, noise)
    xs, ys = np.arange(area[0])[:, None], np.arange(area[1])[None, :]
    distance = np.sqrt((xs - area[0] // 2) ** 2 + (ys - area[1] // 2) ** 2)
    start = 1 / (1 + np.exp(-((4 - distance) + 2 * noise)))

    before = random.get_state()
    cells = area[0] * area[1]
    draws = random.random_sample(_DRAWS_PER_CELL * cells)
    material = np.zeros(area, np.uint8)
    tunnels = np.zeros(area, np.bool_)
    rows = np.empty((cells, 3), np.int64)
    used = kernels.fill_materials(perm, grad, start, draws, material, tunnels)
    walkable = np.frombuffer(WALKABLE, np.uint8)
    count, used = kernels.place_creatures(material, tunnels, distance, walkable, draws, used, rows)
    random.set_state(before)
    random.random_sample(used)

    creatures = tuple((kind, x, y) for kind, x, y in rows[:count].tolist())
    space = {kind: _count_by_chunk(material == kind) for kind in (GRASS, PATH)}
    return Terrain(area, material.tobytes(), creatures, state_of(random), space)


def _count_by_chunk(mask: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> tuple[int, ...]:
    columns = np.add.reduceat(mask.astype(np.int64), np.arange(0, mask.shape[0], CHUNK[0]), axis=0)
    chunks = np.add.reduceat(columns, np.arange(0, mask.shape[1], CHUNK[1]), axis=1)
    return tuple(chunks.ravel().tolist())
