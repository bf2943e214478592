"""Upstream's world generator as compiled loops. Invariant: same noise, same comparisons, same order of draws.

Uniform numbers are drawn beforehand; a kernel takes them in upstream's order and returns how many it used. Kernels let
other threads run, so that a server can make a world beside its event loop.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from opensimplex.constants import GRADIENTS3
from opensimplex.internals import _noise3 as noise3

from envs.crafter.rules import COAL, DIAMOND, GRASS, IRON, LAVA, PATH, SAND, STONE, TREE, WATER

COW, ZOMBIE, SKELETON = 1, 2, 3

Array = Any

_LCG_FACTOR, _LCG_STEP = np.int64(6364136223846793005), np.int64(1442695040888963407)
_GRADIENTS = len(GRADIENTS3) // 3


@numba.njit(cache=True, nogil=True)
def simplex_tables(seed: int) -> tuple[Array, Array]:
    """opensimplex's permutation of 256 and its gradient indices: a shuffle by a 64-bit linear congruence that wraps."""
    perm, grad = np.empty(256, np.int64), np.empty(256, np.int64)
    source = np.arange(256)
    state = np.int64(seed)
    for _ in range(3):
        state = state * _LCG_FACTOR + _LCG_STEP
    for last in range(255, -1, -1):
        state = state * _LCG_FACTOR + _LCG_STEP
        chosen = (state + 31) % (last + 1)
        perm[last] = source[chosen]
        grad[last] = perm[last] % _GRADIENTS * 3
        source[chosen] = source[last]
    return perm, grad


@numba.njit(cache=True, nogil=True)
def start_noise(perm: Array, grad: Array, out: Array) -> None:
    """Fills ``out`` with the noise that shapes the meadow around the start."""
    width, height = out.shape
    for x in range(width):
        for y in range(height):
            out[x, y] = noise3(x / 3, y / 3, 8, perm, grad)


@numba.njit(cache=True, nogil=True)
def fill_materials(perm: Array, grad: Array, start: Array, draws: Array, material: Array, tunnels: Array) -> int:
    """Writes a material into every cell, marks tunnels, and returns the number of draws used."""
    width, height = material.shape
    used = 0
    for x in range(width):
        for y in range(height):
            meadow = start[x, y]
            water = (noise3(x / 15, y / 15, 3, perm, grad) + 0.15 * noise3(x / 5, y / 5, 3, perm, grad)) + 0.1
            water -= 2 * meadow
            mountain = (noise3(x / 15, y / 15, 0, perm, grad) + 0.3 * noise3(x / 5, y / 5, 0, perm, grad)) / 1.3
            mountain -= 4 * meadow + 0.3 * water
            if meadow > 0.5:
                material[x, y] = GRASS
            elif mountain > 0.15:
                if noise3(x / 7, y / 7, 6, perm, grad) > 0.15 and mountain > 0.3:
                    material[x, y] = PATH
                    continue
                if (
                    noise3(2 * x / 3, y / 5 / 3, 7, perm, grad) > 0.4
                    or noise3(x / 5 / 3, 2 * y / 3, 7, perm, grad) > 0.4
                ):
                    material[x, y] = PATH
                    tunnels[x, y] = True
                    continue
                if noise3(x / 8, y / 8, 1, perm, grad) > 0:
                    used += 1
                    if draws[used - 1] > 0.85:
                        material[x, y] = COAL
                        continue
                if noise3(x / 6, y / 6, 2, perm, grad) > 0.4:
                    used += 1
                    if draws[used - 1] > 0.75:
                        material[x, y] = IRON
                        continue
                if mountain > 0.18:
                    used += 1
                    if draws[used - 1] > 0.994:
                        material[x, y] = DIAMOND
                        continue
                if mountain > 0.3 and noise3(x / 5, y / 5, 6, perm, grad) > 0.35:
                    material[x, y] = LAVA
                else:
                    material[x, y] = STONE
            elif 0.25 < water <= 0.35 and noise3(x / 9, y / 9, 4, perm, grad) > -0.2:
                material[x, y] = SAND
            elif water > 0.3:
                material[x, y] = WATER
            else:
                material[x, y] = GRASS
                if noise3(x / 7, y / 7, 5, perm, grad) > 0:
                    used += 1
                    if draws[used - 1] > 0.8:
                        material[x, y] = TREE
    return used


@numba.njit(cache=True, nogil=True)
def place_creatures(
    material: Array, tunnels: Array, distance: Array, walkable: Array, draws: Array, used: int, out: Array
) -> tuple[int, int]:
    """Writes (kind, x, y) rows into ``out``; returns the number of rows and the number of draws used so far."""
    width, height = material.shape
    rows = 0
    for x in range(width):
        for y in range(height):
            here = material[x, y]
            if not walkable[here]:
                continue
            kind = 0
            if distance[x, y] > 3 and here == GRASS:
                used += 1
                if draws[used - 1] > 0.985:
                    kind = COW
            if kind == 0 and distance[x, y] > 10:
                used += 1
                if draws[used - 1] > 0.993:
                    kind = ZOMBIE
            if kind == 0 and here == PATH and tunnels[x, y]:
                used += 1
                if draws[used - 1] > 0.95:
                    kind = SKELETON
            if kind != 0:
                out[rows, 0] = kind
                out[rows, 1] = x
                out[rows, 2] = y
                rows += 1
    return rows, used
