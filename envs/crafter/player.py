"""The player: actions, needs, health."""

from __future__ import annotations

from collections.abc import Mapping

from envs.crafter.creatures import Plant
from envs.crafter.grid import World
from envs.crafter.rules import (
    ACHIEVEMENTS,
    COLLECT,
    DOWN,
    ITEM_INITIAL,
    ITEM_MAX,
    LAVA,
    LEFT,
    MAKE,
    MOVES,
    PLACE,
    RIGHT,
    UP,
    WALKABLE_PLAYER,
    WATER,
    Direction,
    Make,
    Place,
    Position,
)
from envs.crafter.thing import Thing

_SWORD_DAMAGE = {"wood_sword": 2, "stone_sword": 3, "iron_sword": 5}
_BARE_HAND_DAMAGE = 1

_MAX_ENERGY = ITEM_MAX["energy"]
_SMALLEST_MAX = min(ITEM_MAX.values())
_TEXTURES: dict[Direction, str] = {LEFT: "player-left", RIGHT: "player-right", UP: "player-up", DOWN: "player-down"}

# Steps until a need costs or gives a point; upstream keeps them in code, not in data.yaml.
_HUNGER_LIMIT = 25
_THIRST_LIMIT = 20
_TIRED_LIMIT = 30
_RESTED_LIMIT = -10
_HEAL_LIMIT = 25
_HARM_LIMIT = -15


def hit_damage(inventory: Mapping[str, int]) -> int:
    """Strength of a hit with the best sword owned."""
    return max([_BARE_HAND_DAMAGE, *(damage for sword, damage in _SWORD_DAMAGE.items() if inventory[sword])])


class Player(Thing):
    """Does ``action`` in each update, then gets hungry, thirsty and tired."""

    walkable = WALKABLE_PLAYER

    def __init__(self, world: World, pos: Position) -> None:
        super().__init__(world, pos)
        self.facing: Direction = DOWN
        self.inventory = dict(ITEM_INITIAL)
        self.achievements = dict.fromkeys(ACHIEVEMENTS, 0)
        self.action = "noop"
        self.sleeping = False
        self.last_health = self.health
        self.hunger = 0.0
        self.thirst = 0.0
        self.fatigue = 0
        self.recover = 0.0

    @property
    def texture(self) -> str:
        """One picture per direction, and one asleep."""
        return "player-sleep" if self.sleeping else _TEXTURES[self.facing]

    def update(self, world: World) -> None:
        """Upstream's order: act, needs, health, limits, waking."""
        self._act(world, self._chosen_action())
        self._update_needs()
        self._update_health()
        self._keep_limits()
        health = self.inventory["health"]
        if health < self.last_health:
            self.sleeping = False
        self.last_health = health

    def _chosen_action(self) -> str:
        if self.sleeping:
            if self.inventory["energy"] < _MAX_ENERGY:
                return "sleep"
            self.sleeping = False
            self.achievements["wake_up"] += 1
        return self.action

    def _act(self, world: World, action: str) -> None:
        if action == "noop":
            return
        if action in MOVES:
            self._walk(world, MOVES[action])
        elif action == "do":
            self._do(world, self.pos[0] + self.facing[0], self.pos[1] + self.facing[1])
        elif action == "sleep":
            if self.inventory["energy"] < _MAX_ENERGY:
                self.sleeping = True
        elif action in PLACE:
            self._place(world, action, PLACE[action], self.pos[0] + self.facing[0], self.pos[1] + self.facing[1])
        elif action in MAKE:
            self._make(world, action, MAKE[action])

    def _walk(self, world: World, direction: Direction) -> None:
        self.facing = direction
        self.move(world, direction)
        x, y = self.pos
        if world.material[x * world.height + y] == LAVA:
            self.inventory["health"] = 0

    def _do(self, world: World, x: int, y: int) -> None:
        thing = world.thing_at(x, y)
        if thing is not None:
            thing.struck_by(self, hit_damage(self.inventory))
        else:
            self._collect(world, x, y, world.material_at(x, y))

    def _collect(self, world: World, x: int, y: int, material: int) -> None:
        if material == WATER:
            self.thirst = 0
        rule = COLLECT.get(material)
        if rule is None or not self._owns(rule.require):
            return
        world.set_material(x, y, rule.leaves)
        if self.random.random() <= rule.probability:
            for name, amount in rule.receive.items():
                self.inventory[name] += amount
                self.achievements[f"collect_{name}"] += 1

    def _place(self, world: World, action: str, rule: Place, x: int, y: int) -> None:
        if world.thing_at(x, y) is not None or world.material_at(x, y) not in rule.where or not self._owns(rule.uses):
            return
        self._pay(rule.uses)
        if rule.is_material:
            world[x, y] = rule.name
        else:
            world.add(Plant(world, (x, y)))
        self.achievements[action] += 1

    def _make(self, world: World, action: str, rule: Make) -> None:
        if not self._owns(rule.uses) or not rule.nearby <= world.near_materials(self.pos, 1):
            return
        self._pay(rule.uses)
        self.inventory[rule.name] += rule.gives
        self.achievements[action] += 1

    def _owns(self, amounts: dict[str, int]) -> bool:
        return all(self.inventory[name] >= amount for name, amount in amounts.items())

    def _pay(self, amounts: dict[str, int]) -> None:
        for name, amount in amounts.items():
            self.inventory[name] -= amount

    def _update_needs(self) -> None:
        inventory = self.inventory
        pace = 0.5 if self.sleeping else 1
        self.hunger += pace
        if self.hunger > _HUNGER_LIMIT:
            self.hunger = 0
            inventory["food"] -= 1
        self.thirst += pace
        if self.thirst > _THIRST_LIMIT:
            self.thirst = 0
            inventory["drink"] -= 1
        self.fatigue = min(self.fatigue - 1, 0) if self.sleeping else self.fatigue + 1
        if self.fatigue < _RESTED_LIMIT:
            self.fatigue = 0
            inventory["energy"] += 1
        if self.fatigue > _TIRED_LIMIT:
            self.fatigue = 0
            inventory["energy"] -= 1

    def _update_health(self) -> None:
        inventory, asleep = self.inventory, self.sleeping
        if inventory["food"] > 0 and inventory["drink"] > 0 and (inventory["energy"] > 0 or asleep):
            self.recover += 2 if asleep else 1
        else:
            self.recover -= 0.5 if asleep else 1
        if self.recover > _HEAL_LIMIT:
            self.recover = 0
            self.health += 1
        if self.recover < _HARM_LIMIT:
            self.recover = 0
            self.health -= 1

    def _keep_limits(self) -> None:
        inventory = self.inventory
        amounts = inventory.values()
        if max(amounts) > _SMALLEST_MAX or min(amounts) < 0:
            for name, amount in inventory.items():
                inventory[name] = max(0, min(amount, ITEM_MAX[name]))
