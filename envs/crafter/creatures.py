"""Cows, zombies, skeletons, arrows and plants: upstream's behaviour, draw by draw.

The probabilities, distances and damages are those of crafter's objects.py; data.yaml does not hold them. A thing that
was removed in this step still acts to the end of the step, because upstream's does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from envs.crafter.grid import COWS, OTHERS, SKELETONS, ZOMBIES, World
from envs.crafter.rules import (
    DIRECTIONS,
    DOWN,
    FURNACE,
    LEFT,
    PATH,
    RIGHT,
    TABLE,
    UP,
    WALKABLE_ARROW,
    Direction,
    Position,
)
from envs.crafter.thing import Thing

if TYPE_CHECKING:
    from envs.crafter.player import Player


class Cow(Thing):
    """Wanders about; food."""

    group = COWS
    initial_health = 3
    food = 6

    def update(self, world: World) -> None:
        """Moves in a random direction every other step."""
        if self.inventory["health"] <= 0:
            world.remove(self)
        random = self.random
        if random.random() < 0.5:
            self.move(world, DIRECTIONS[random.getrandbits(32) & 3])

    def struck_by(self, player: Player, damage: int) -> None:
        """Feeds the player when it dies."""
        self.health -= damage
        if self.health <= 0:
            player.inventory["food"] += self.food
            player.achievements["eat_cow"] += 1
            player.hunger = 0


class Zombie(Thing):
    """Comes close and hits, the harder when the player sleeps."""

    group = ZOMBIES
    initial_health = 5
    sight = 8
    pause = 5
    damage = 2
    damage_asleep = 7

    def __init__(self, world: World, pos: Position, player: Player) -> None:
        super().__init__(world, pos)
        self.player = player
        self.cooldown = 0

    def update(self, world: World) -> None:
        """Moves, then hits if the player is next to it."""
        if self.inventory["health"] <= 0:
            world.remove(self)
        player, random = self.player, self.random
        if self.distance(player.pos) <= self.sight and random.random() < 0.9:
            self.move(world, self.toward(player, random.random() < 0.8))
        else:
            self.move(world, DIRECTIONS[random.getrandbits(32) & 3])
        if self.distance(player.pos) <= 1:
            if self.cooldown:
                self.cooldown -= 1
            else:
                player.health -= self.damage_asleep if player.sleeping else self.damage
                self.cooldown = self.pause

    def struck_by(self, player: Player, damage: int) -> None:
        """Counts as defeated when it dies."""
        self.health -= damage
        if self.health <= 0:
            player.achievements["defeat_zombie"] += 1


class Skeleton(Thing):
    """Lives in tunnels, keeps away and shoots arrows."""

    group = SKELETONS
    initial_health = 3
    pause = 4

    def __init__(self, world: World, pos: Position, player: Player) -> None:
        super().__init__(world, pos)
        self.player = player
        self.reload = 0

    def update(self, world: World) -> None:
        """Retreats when the player is close, else shoots, approaches or wanders."""
        if self.inventory["health"] <= 0:
            world.remove(self)
        self.reload = max(0, self.reload - 1)
        player, draw = self.player, self.random.random
        distance = self.distance(player.pos)
        if distance <= 3:
            dx, dy = self.toward(player, draw() < 0.6)
            if self.move(world, (-dx, -dy)):
                return
        if distance <= 5 and draw() < 0.5:
            self._shoot(world, self.toward(player))
        elif distance <= 8 and draw() < 0.3:
            self.move(world, self.toward(player, draw() < 0.6))
        elif draw() < 0.2:
            self.move(world, DIRECTIONS[self.random.getrandbits(32) & 3])

    def struck_by(self, player: Player, damage: int) -> None:
        """Counts as defeated when it dies."""
        self.health -= damage
        if self.health <= 0:
            player.achievements["defeat_skeleton"] += 1

    def _shoot(self, world: World, direction: Direction) -> None:
        if self.reload > 0 or direction == (0, 0):
            return
        x, y = self.pos[0] + direction[0], self.pos[1] + direction[1]
        if world.is_free(x, y, WALKABLE_ARROW):
            world.add(Arrow(world, (x, y), direction))
            self.reload = self.pause


class Arrow(Thing):
    """Flies straight until it meets something; breaks tables and furnaces."""

    walkable = WALKABLE_ARROW
    damage = 2

    def __init__(self, world: World, pos: Position, facing: Direction) -> None:
        super().__init__(world, pos)
        self.facing = facing

    @property
    def texture(self) -> str:
        """One picture per direction."""
        return _ARROW_TEXTURES[self.facing]

    def update(self, world: World) -> None:
        """Flies one cell, or hits what is there and is gone."""
        x, y = self.pos[0] + self.facing[0], self.pos[1] + self.facing[1]
        target = world.thing_at(x, y)
        if target is not None:
            target.health -= self.damage
            world.remove(self)
            return
        material = world.material_at(x, y)
        if WALKABLE_ARROW[material]:
            self.move(world, self.facing)
            return
        world.remove(self)
        if material in (TABLE, FURNACE):
            world.set_material(x, y, PATH)


class Plant(Thing):
    """A sapling that ripens, unless a creature tramples it."""

    initial_health = 1
    food = 4
    ripe_after = 300

    def __init__(self, world: World, pos: Position) -> None:
        super().__init__(world, pos)
        self.grown = 0

    @property
    def ripe(self) -> bool:
        """Whether it can be eaten."""
        return self.grown > self.ripe_after

    @property
    def kind(self) -> str:
        """Ripe plants are a kind of their own: only they can be eaten."""
        return "ripe" if self.ripe else "plant"

    @property
    def texture(self) -> str:
        """One picture for young, one for ripe."""
        return "plant-ripe" if self.ripe else "plant"

    def update(self, world: World) -> None:
        """Grows, and suffers when a creature stands next to it."""
        self.grown += 1
        x, y = self.pos
        neighbours = (world.thing_at(x + dx, y + dy) for dx, dy in DIRECTIONS)
        if any(thing is not None and thing.group != OTHERS for thing in neighbours):
            self.health -= 1
        if self.health <= 0:
            world.remove(self)

    def struck_by(self, player: Player, damage: int) -> None:
        """Is eaten if ripe, and starts to grow again."""
        if self.ripe:
            self.grown = 0
            player.inventory["food"] += self.food
            player.achievements["eat_plant"] += 1


_ARROW_TEXTURES: dict[Direction, str] = {
    LEFT: "arrow-left",
    RIGHT: "arrow-right",
    UP: "arrow-up",
    DOWN: "arrow-down",
}
