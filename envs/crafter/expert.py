"""The scripted expert: a list of rules in order of priority; the first that has an answer decides.

Limits of the expert are limits of what it sees (``mode``) and of planning ahead without looking (``plan`` with k > 1).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from envs.crafter.goals import (
    COWS,
    FURNACE_STONE,
    MEADOW,
    RIPE_PLANTS,
    STONE_TOOLS,
    TABLE_WOOD,
    WATERS,
    WOOD_TOOLS,
    pursue_goal,
    wants_sapling,
)
from envs.crafter.imagine import imagine
from envs.crafter.mind import MEMORY_MODE, UNKNOWN, WINDOW_MODE, Mind, codes
from envs.crafter.paths import find, follow, go, passable, want
from envs.crafter.rules import DIRECTIONS, FURNACE, GRASS, ITEM_MAX, PLACE, STONE, TABLE, Direction
from envs.crafter.view import WorldView

Rule = Callable[[Mind], str | None]

_ENEMIES = want(*codes("zombie", "skeleton"))
_GROUND = want(*codes("grass", "sand", "path"))
_UNKNOWN = want(UNKNOWN)

# A long game is one with time to build a shelter for the night.
_LONG = 100
# Sleeping when a little tired wakes one up after about 12 steps; so late in the game nothing better is left to do.
_LAST_CALL_FOR_SLEEP = 22
_SHORTEST_SLEEP = 13


class Expert:
    """Plans actions from a view. ``horizon`` is the number of steps that the game will last."""

    def __init__(self, mode: str = WINDOW_MODE, horizon: int = 50, random: np.random.Generator | int = 0) -> None:
        self.mind = Mind(mode, horizon, np.random.default_rng(random))

    def reset(self) -> None:
        """Before a new episode."""
        self.mind.forget()

    def plan(self, view: WorldView, k: int) -> list[str]:
        """The next ``k`` actions, all decided from one look."""
        self.mind.look(view)
        actions = []
        for _ in range(k):
            action = decide(self.mind)
            actions.append(action)
            imagine(self.mind, action)
        return actions


def decide(mind: Mind) -> str:
    """The answer of the first rule that has one."""
    for rule in RULES:
        action = rule(mind)
        if action is not None:
            return action
    return "noop"


def stay_asleep(mind: Mind) -> str | None:
    """Actions don't count while asleep."""
    return "noop" if mind.sleeping else None


def fight_neighbour(mind: Mind) -> str | None:
    """Hits an enemy next to us, unless we are about to die."""
    route = find(mind, _ENEMIES)
    if route is None or route.length > 0 or mind.inventory["health"] <= 2:
        return None
    return follow(mind, route)


def drink_when_thirsty(mind: Mind) -> str | None:
    """Looks for water when drink is low."""
    return go(mind, WATERS, dig=_can_dig(mind)) if mind.inventory["drink"] <= 3 else None


def eat_when_hungry(mind: Mind) -> str | None:
    """Looks for a ripe plant, then for a cow, when food is low."""
    if mind.inventory["food"] > 3:
        return None
    return go(mind, RIPE_PLANTS, dig=_can_dig(mind)) or go(mind, COWS, dig=_can_dig(mind))


def make_tool(mind: Mind) -> str | None:
    """Makes what the table next to us allows, pickaxe before sword."""
    inventory = mind.inventory
    if not mind.near(TABLE) or inventory["wood"] < 1:
        return None
    if not inventory["wood_pickaxe"]:
        return "make_wood_pickaxe"
    if mind.lacks("make_wood_sword"):
        return "make_wood_sword"
    if inventory["stone"] >= 1 and not inventory["stone_pickaxe"]:
        return "make_stone_pickaxe"
    if inventory["stone"] >= 1 and mind.lacks("make_stone_sword"):
        return "make_stone_sword"
    if mind.near(FURNACE) and inventory["coal"] >= 1 and inventory["iron"] >= 1:
        if not inventory["iron_pickaxe"]:
            return "make_iron_pickaxe"
        if mind.lacks("make_iron_sword"):
            return "make_iron_sword"
    return None


def plant_sapling(mind: Mind) -> str | None:
    """Plants for the achievement, and later again for a meal."""
    if not mind.inventory["sapling"] or not (mind.lacks("place_plant") or wants_sapling(mind)):
        return None
    if mind.seen[mind.front] == GRASS:
        return "place_plant"
    return go(mind, MEADOW, "place_plant") or "noop"


def place_first_stone(mind: Mind) -> str | None:
    """Places one stone wherever it goes, for the achievement."""
    fits = mind.seen[mind.front] in PLACE["place_stone"].where
    return "place_stone" if mind.lacks("place_stone") and mind.inventory["stone"] >= 1 and fits else None


def sleep_when_tired(mind: Mind) -> str | None:
    """Sleeps when tired, at night, or as the last thing to achieve; behind stones when the game goes on for long."""
    energy, long_game = mind.inventory["energy"], mind.left > _LONG
    last_call = mind.left <= _LAST_CALL_FOR_SLEEP or energy <= 4
    for_waking = mind.lacks("wake_up") and energy < ITEM_MAX["energy"] and last_call and mind.left >= _SHORTEST_SLEEP
    if not (for_waking or energy <= 2 or (energy <= 6 and mind.dark and long_game)):
        return None
    return (_build_shelter(mind) if long_game else None) or "sleep"


def build_table(mind: Mind) -> str | None:
    """Builds the first table, and another one when tools are to be made and none is known."""
    wood, first = mind.inventory["wood"], mind.lacks("place_table")
    if not first and (mind.sees(TABLE) or not _has_use_for_table(mind)):
        return None
    spare = 2 if mind.left >= 40 else 1 if first and mind.left > 12 else 0
    return _build(mind, "place_table") if wood >= TABLE_WOOD + spare else None


def build_furnace(mind: Mind) -> str | None:
    """Builds the first furnace, and another one next to a table when iron tools can be made."""
    inventory, first, at_table = mind.inventory, mind.lacks("place_furnace"), mind.near(TABLE)
    for_iron = inventory["iron"] and inventory["coal"] and inventory["wood"] and not mind.near(FURNACE)
    if inventory["stone"] < FURNACE_STONE or not (first or (for_iron and at_table)):
        return None
    late_enough = at_table or not mind.lacks("make_stone_pickaxe") or mind.left < 30
    return _build(mind, "place_furnace") if late_enough else None


def explore(mind: Mind) -> str | None:
    """Walks to the nearest unknown cell if the map is remembered, else straight on until something is in the way."""
    dig = _can_dig(mind)
    if mind.mode == MEMORY_MODE:
        action = go(mind, _UNKNOWN, "noop", dig)
        if action is not None and action != "noop":
            return action
    heading = _next_heading(mind, dig)
    if heading is None:
        return None
    mind.heading = heading
    offset = mind.offset_of(heading)
    if mind.seen[mind.cell + offset] == STONE and mind.facing == offset:
        return "do"
    return mind.move_name(offset)


RULES: tuple[Rule, ...] = (
    stay_asleep,
    fight_neighbour,
    drink_when_thirsty,
    eat_when_hungry,
    make_tool,
    plant_sapling,
    place_first_stone,
    sleep_when_tired,
    build_table,
    build_furnace,
    pursue_goal,
    explore,
)


def _can_dig(mind: Mind) -> bool:
    return mind.inventory["wood_pickaxe"] > 0


def _build_shelter(mind: Mind) -> str | None:
    """Closes the side in front; turns to an open side by walking, if there are stones for the new place."""
    stones = mind.inventory["stone"]
    if stones == 0:
        return None
    for offset in mind.offsets:
        if not _GROUND.table[mind.seen[mind.cell + offset]]:
            continue
        if mind.facing == offset:
            return "place_stone"
        if stones >= 3:
            return mind.move_name(offset) if mind.random.random() < 0.5 else "sleep"
    return None


def _has_use_for_table(mind: Mind) -> bool:
    inventory = mind.inventory
    return (
        mind.lacks(*WOOD_TOOLS)
        or (inventory["stone"] >= 1 and mind.lacks(*STONE_TOOLS))
        or (inventory["iron"] >= 1 and inventory["coal"] >= 1)
    )


def _build(mind: Mind, action: str) -> str | None:
    return action if _GROUND.table[mind.seen[mind.front]] else go(mind, _GROUND, action)


def _next_heading(mind: Mind, dig: bool) -> Direction | None:
    """Mostly straight on; a turn now and then, and back only when there is no other way."""
    free = passable(dig)
    ways = [step for step in DIRECTIONS if free[mind.seen[mind.cell + mind.offset_of(step)]]]
    if mind.heading in ways and mind.random.random() >= 0.03:
        return mind.heading
    if not ways:
        return None
    back = (-mind.heading[0], -mind.heading[1])
    forward = [step for step in ways if step != back] or ways
    return forward[int(mind.random.integers(len(forward)))]
