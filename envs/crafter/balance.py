"""Keeps the number of creatures per chunk near what light and terrain ask for, as upstream does every tenth step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from envs.crafter.creatures import Cow, Skeleton, Zombie
from envs.crafter.grid import World
from envs.crafter.player import Player
from envs.crafter.rules import GRASS, PATH, Position
from envs.crafter.thing import Thing

EVERY_STEPS = 10


def balance(world: World, player: Player) -> None:
    """Spawns or removes at most one zombie, one skeleton and one cow in each chunk that ever held a thing."""
    zombies_wanted = int(3.5 - 3 * world.daylight)
    cows_allowed = int(1.5 + world.daylight)
    draw = world.random.random
    grass, path = world.space[GRASS], world.space[PATH]

    def zombie(pos: Position) -> Thing:
        return Zombie(world, pos, player)

    def skeleton(pos: Position) -> Thing:
        return Skeleton(world, pos, player)

    def cow(pos: Position) -> Thing:
        return Cow(world, pos)

    for chunk, (zombies, skeletons, cows, _) in world.chunks.items():
        count = len(zombies)
        if count < (zombies_wanted if grass[chunk] >= 50 else 0) and draw() < 0.3:
            _spawn(world, player, chunk, GRASS, 6, zombie)
        elif count > zombies_wanted and draw() < 0.4:
            _despawn(world, player, zombies, 0)
        count = len(skeletons)
        if count < (1 if path[chunk] >= 6 else 0) and draw() < 0.1:
            _spawn(world, player, chunk, PATH, 7, skeleton)
        elif count > 2 and draw() < 0.1:
            _despawn(world, player, skeletons, 7)
        count = len(cows)
        if count < (1 if grass[chunk] >= 30 else 0) and draw() < 0.01:
            _spawn(world, player, chunk, GRASS, 5, cow)
        elif count > cows_allowed and draw() < 0.1:
            _despawn(world, player, cows, 5)


def _spawn(
    world: World, player: Player, chunk: int, material: int, min_distance: int, make: Callable[[Position], Thing]
) -> None:
    xmin, xmax, ymin, ymax = world.chunk_area(chunk)
    columns, rows = np.nonzero(world.material_map[xmin:xmax, ymin:ymax] == material)
    choice = world.random.below(len(columns))
    x, y = xmin + int(columns[choice]), ymin + int(rows[choice])
    if world.thing_at(x, y) is None and player.distance((x, y)) >= min_distance:
        world.add(make((x, y)))


def _despawn(world: World, player: Player, group: dict[Thing, None], min_distance: int) -> None:
    thing = list(group)[world.random.below(len(group))]
    if player.distance(thing.pos) >= min_distance:
        world.remove(thing)
