"""What is worth walking to: each goal says when it is wanted, where, and how much its distance counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from envs.crafter.mind import Mind, codes
from envs.crafter.paths import Route, Want, find, follow, want
from envs.crafter.rules import ITEM_MAX, PLACE, TABLE

TABLE_WOOD = PLACE["place_table"].uses["wood"]
FURNACE_STONE = PLACE["place_furnace"].uses["stone"]

WOOD_TOOLS = ("make_wood_pickaxe", "make_wood_sword")
STONE_TOOLS = ("make_stone_pickaxe", "make_stone_sword")
IRON_TOOLS = ("make_iron_pickaxe", "make_iron_sword")

TREES = want(*codes("tree"))
WATERS = want(*codes("water"))
MEADOW = want(*codes("grass"))
STONES = want(*codes("stone"))
COALS = want(*codes("coal"))
IRONS = want(*codes("iron"))
DIAMONDS = want(*codes("diamond"))
TABLES = want(*codes("table"))
COWS = want(*codes("cow"))
RIPE_PLANTS = want(*codes("ripe"))
ZOMBIES = want(*codes("zombie"))
SKELETONS = want(*codes("skeleton"))

# Walking there is not all: hits that a creature takes, tries until grass gives a sapling.
_COW_EXTRA = 3
_FIGHT_EXTRA = 4
_SAPLING_EXTRA = 9

# Steps that a sapling needs to ripen, with time to spare.
PLANT_PAYS_OFF = 700


class Goal(NamedTuple):
    """A target; the cheapest ``(steps + extra) * weight`` wins."""

    target: Want
    extra: int = 0
    weight: float = 1.0
    dig: bool = False


def pursue_goal(mind: Mind) -> str | None:
    """The next action towards the cheapest goal that can be reached in time."""
    best: tuple[float, Route] | None = None
    for goal in open_goals(mind):
        route = find(mind, goal.target, goal.dig)
        if route is None or route.length + 1 + goal.extra > mind.left:
            continue
        cost = (route.length + 1 + goal.extra) * goal.weight
        if best is None or cost < best[0]:
            best = cost, route
    return None if best is None else follow(mind, best[1])


def open_goals(mind: Mind) -> Iterator[Goal]:
    """Goals that are wanted now."""
    yield from _wood_and_food(mind)
    if mind.inventory["wood_pickaxe"]:
        yield from _mining(mind)
    if mind.lacks("defeat_zombie"):
        yield Goal(ZOMBIES, _FIGHT_EXTRA)
    if mind.sees(TABLE) and mind.inventory["wood"] >= 1 and _could_make_something(mind):
        yield Goal(TABLES, weight=0.4, dig=bool(mind.inventory["wood_pickaxe"]))


def wants_sapling(mind: Mind) -> bool:
    """Whether a plant would have the time to ripen and none is in sight."""
    return mind.lacks("eat_plant") and not mind.sees(codes("plant")[0]) and mind.left > PLANT_PAYS_OFF


def _wood_and_food(mind: Mind) -> Iterator[Goal]:
    inventory = mind.inventory
    if inventory["wood"] < _wood_wanted(mind):
        yield Goal(TREES, weight=0.8)
    if mind.lacks("collect_drink") or inventory["drink"] < 6:
        yield Goal(WATERS)
    if mind.lacks("eat_cow") or inventory["food"] < 5:
        yield Goal(COWS, _COW_EXTRA)
    if mind.lacks("collect_sapling") or (wants_sapling(mind) and not inventory["sapling"]):
        yield Goal(MEADOW, _SAPLING_EXTRA)
    if mind.lacks("eat_plant"):
        yield Goal(RIPE_PLANTS)


def _mining(mind: Mind) -> Iterator[Goal]:
    inventory = mind.inventory
    if inventory["stone"] < _stone_wanted(mind):
        yield Goal(STONES, weight=0.9)
    if mind.lacks("collect_coal") or (mind.lacks("make_iron_sword") and inventory["coal"] < 2):
        yield Goal(COALS, weight=0.7, dig=True)
    if inventory["stone_pickaxe"] and (mind.lacks("collect_iron") or inventory["iron"] < _iron_wanted(mind)):
        yield Goal(IRONS, weight=0.6, dig=True)
    if inventory["iron_pickaxe"] and mind.lacks("collect_diamond"):
        yield Goal(DIAMONDS, weight=0.5, dig=True)
    if mind.lacks("defeat_skeleton"):
        yield Goal(SKELETONS, _FIGHT_EXTRA, dig=True)


def _wood_wanted(mind: Mind) -> int:
    if mind.lacks("place_table"):
        return TABLE_WOOD + (1 if mind.left < 25 else 2)
    wanted = sum(mind.lacks(tool) for tool in (*WOOD_TOOLS, *STONE_TOOLS, *IRON_TOOLS))
    if mind.left > 60 and not mind.near(TABLE, 7):
        wanted += TABLE_WOOD
    return min(ITEM_MAX["wood"], wanted)


def _stone_wanted(mind: Mind) -> int:
    wanted = (FURNACE_STONE if mind.lacks("place_furnace") else 0) + sum(mind.lacks(tool) for tool in STONE_TOOLS)
    return max(wanted, 5 if mind.left > 200 else 1)


def _iron_wanted(mind: Mind) -> int:
    return 2 if mind.lacks("make_iron_pickaxe") else int(mind.lacks("make_iron_sword"))


def _could_make_something(mind: Mind) -> bool:
    inventory = mind.inventory
    return (
        not inventory["wood_pickaxe"]
        or mind.lacks("make_wood_sword")
        or (inventory["stone"] >= 1 and (not inventory["stone_pickaxe"] or mind.lacks("make_stone_sword")))
        or (inventory["iron"] >= 1 and inventory["coal"] >= 1 and mind.lacks(*IRON_TOOLS))
    )
