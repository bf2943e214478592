"""Crafter's rules as tables. Every number comes from ``crafter.constants`` (its data.yaml); none is repeated here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from crafter import constants

Position = tuple[int, int]
Direction = tuple[int, int]

ACTIONS: tuple[str, ...] = tuple(constants.actions)
ACTION_ID: dict[str, int] = {name: index for index, name in enumerate(ACTIONS)}
ACHIEVEMENTS: tuple[str, ...] = tuple(constants.achievements)

ITEMS: tuple[str, ...] = tuple(constants.items)
ITEM_MAX: dict[str, int] = {name: item["max"] for name, item in constants.items.items()}
ITEM_INITIAL: dict[str, int] = {name: item["initial"] for name, item in constants.items.items()}
VITALS: tuple[str, ...] = ("health", "food", "drink", "energy")

MATERIALS: tuple[str | None, ...] = (None, *constants.materials)
MATERIAL_ID: dict[str | None, int] = {name: index for index, name in enumerate(MATERIALS)}
WATER = MATERIAL_ID["water"]
GRASS = MATERIAL_ID["grass"]
STONE = MATERIAL_ID["stone"]
PATH = MATERIAL_ID["path"]
SAND = MATERIAL_ID["sand"]
TREE = MATERIAL_ID["tree"]
LAVA = MATERIAL_ID["lava"]
COAL = MATERIAL_ID["coal"]
IRON = MATERIAL_ID["iron"]
DIAMOND = MATERIAL_ID["diamond"]
TABLE = MATERIAL_ID["table"]
FURNACE = MATERIAL_ID["furnace"]

LEFT: Direction = (-1, 0)
RIGHT: Direction = (1, 0)
UP: Direction = (0, -1)
DOWN: Direction = (0, 1)
DIRECTIONS: tuple[Direction, ...] = (LEFT, RIGHT, UP, DOWN)
MOVES: dict[str, Direction] = {"move_left": LEFT, "move_right": RIGHT, "move_up": UP, "move_down": DOWN}


class Collect(NamedTuple):
    """What ``do`` on a material needs, gives and leaves behind."""

    require: dict[str, int]
    receive: dict[str, int]
    leaves: int
    probability: float


class Place(NamedTuple):
    """What a ``place_*`` action uses, and on which material ids it works."""

    name: str
    uses: dict[str, int]
    where: frozenset[int]
    is_material: bool


class Make(NamedTuple):
    """What a ``make_*`` action uses and gives, and which material ids must be near."""

    name: str
    uses: dict[str, int]
    nearby: frozenset[int]
    gives: int


def material_table(names: Iterable[str]) -> bytes:
    """256 flags by material id, 1 for each of ``names``: indexing it is the cheapest membership test."""
    table = bytearray(256)
    for name in names:
        table[MATERIAL_ID[name]] = 1
    return bytes(table)


def _ids(names: Iterable[str]) -> frozenset[int]:
    return frozenset(MATERIAL_ID[name] for name in names)


def _collect(rule: dict[str, Any]) -> Collect:
    return Collect(rule["require"], rule["receive"], MATERIAL_ID[rule["leaves"]], rule.get("probability", 1))


WALKABLE = material_table(constants.walkable)
WALKABLE_PLAYER = material_table([*constants.walkable, "lava"])
WALKABLE_ARROW = material_table([*constants.walkable, "water", "lava"])

COLLECT: dict[int, Collect] = {MATERIAL_ID[name]: _collect(rule) for name, rule in constants.collect.items()}
PLACE: dict[str, Place] = {
    f"place_{name}": Place(name, rule["uses"], _ids(rule["where"]), rule["type"] == "material")
    for name, rule in constants.place.items()
}
MAKE: dict[str, Make] = {
    f"make_{name}": Make(name, rule["uses"], _ids(rule["nearby"]), rule["gives"])
    for name, rule in constants.make.items()
}
