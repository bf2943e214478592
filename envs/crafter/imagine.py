"""A small model of the rules, for planning several actions from one look. Creatures are taken to stand still."""

from __future__ import annotations

from envs.crafter.creatures import Cow, Skeleton, Zombie
from envs.crafter.mind import THING_CODE, Mind
from envs.crafter.paths import passable
from envs.crafter.player import hit_damage
from envs.crafter.rules import COLLECT, ITEM_MAX, MAKE, MATERIAL_ID, MOVES, PLACE, Make, Place

_DEFEATS = {
    THING_CODE["cow"]: (Cow.initial_health, "eat_cow"),
    THING_CODE["zombie"]: (Zombie.initial_health, "defeat_zombie"),
    THING_CODE["skeleton"]: (Skeleton.initial_health, "defeat_skeleton"),
}


def imagine(mind: Mind, action: str) -> None:
    """Changes the mind as ``action`` would change the world."""
    mind.step += 1
    if action in MOVES:
        mind.facing = mind.offset_of(MOVES[action])
        if passable(dig=False)[mind.seen[mind.front]]:
            mind.cell = mind.front
    elif action == "do":
        _do(mind)
    elif action == "sleep":
        mind.sleeping = mind.inventory["energy"] < ITEM_MAX["energy"]
    elif action in PLACE:
        _place(mind, action, PLACE[action])
    elif action in MAKE:
        _make(mind, action, MAKE[action])


def _do(mind: Mind) -> None:
    cell, code = mind.front, mind.seen[mind.front]
    if code in _DEFEATS:
        health, achievement = _DEFEATS[code]
        mind.hits[cell] = mind.hits.get(cell, 0) + 1
        if mind.hits[cell] * hit_damage(mind.inventory) >= health:
            mind.seen[cell] = mind.ground[cell]
            mind.achieved.add(achievement)
    elif code == THING_CODE["ripe"]:
        mind.seen[cell] = THING_CODE["plant"]
        mind.achieved.add("eat_plant")
    elif code in COLLECT:
        _collect(mind, cell, code)


def _collect(mind: Mind, cell: int, code: int) -> None:
    rule = COLLECT[code]
    # What comes only with luck is not counted on.
    if rule.probability < 1 or not _owns(mind, rule.require):
        return
    mind.ground[cell] = mind.seen[cell] = rule.leaves
    for name, amount in rule.receive.items():
        mind.inventory[name] = min(ITEM_MAX[name], mind.inventory[name] + amount)
        mind.achieved.add(f"collect_{name}")


def _place(mind: Mind, action: str, rule: Place) -> None:
    cell = mind.front
    if mind.seen[cell] not in rule.where or not _owns(mind, rule.uses):
        return
    _pay(mind, rule.uses)
    mind.achieved.add(action)
    if rule.is_material:
        mind.ground[cell] = mind.seen[cell] = MATERIAL_ID[rule.name]
    else:
        mind.seen[cell] = THING_CODE[rule.name]


def _make(mind: Mind, action: str, rule: Make) -> None:
    if all(mind.near(material) for material in rule.nearby) and _owns(mind, rule.uses):
        _pay(mind, rule.uses)
        mind.inventory[rule.name] += rule.gives
        mind.achieved.add(action)


def _owns(mind: Mind, amounts: dict[str, int]) -> bool:
    return all(mind.inventory[name] >= amount for name, amount in amounts.items())


def _pay(mind: Mind, amounts: dict[str, int]) -> None:
    for name, amount in amounts.items():
        mind.inventory[name] -= amount
