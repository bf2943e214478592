"""CrafterWorld: a drop-in for ``crafter.Env`` that draws pictures only on request.

Invariants, checked step by step against upstream by tests/unit/test_crafter_world.py:
1. State, rewards and the random stream equal upstream's after every step, given the same seed and actions.
2. What happens is a function of the arguments and the actions alone; looking (``render``, ``view``) changes nothing.
   ``size`` is such an argument: upstream draws its night noise pixel by pixel from the world's own random stream.
"""

from __future__ import annotations

import functools
from typing import Any

import crafter
import numpy as np
import numpy.typing as npt
from crafter import constants, engine

from envs.crafter import kernels
from envs.crafter.balance import EVERY_STEPS, balance
from envs.crafter.creatures import Arrow, Cow, Plant, Skeleton, Zombie
from envs.crafter.grid import World
from envs.crafter.player import Player
from envs.crafter.rules import ACTIONS, ITEMS, MATERIALS
from envs.crafter.terrain import generate
from envs.crafter.thing import Thing
from envs.crafter.view import WorldView

Image = npt.NDArray[np.uint8]
StepResult = tuple[Image | None, float, bool, dict[str, Any]]

_SEED_RANGE = 2**31 - 1
_DARK = 0.5
_STEPS_AHEAD = 8
_SEMANTIC_ID = {
    kind: len(MATERIALS) + index for index, kind in enumerate((Player, Cow, Zombie, Skeleton, Arrow, Plant))
}


class CrafterWorld(crafter.Env):
    """Takes upstream's arguments and two more.

    ``images=False``: observations are None, nothing is drawn. ``semantic=False``: info carries no "semantic" array.
    """

    def __init__(
        self,
        area: tuple[int, int] = (64, 64),
        view: tuple[int, int] | int = (9, 9),
        size: tuple[int, int] | int = (64, 64),
        reward: bool = True,
        length: int | None = 10000,
        seed: int | None = None,
        images: bool = False,
        semantic: bool = False,
    ) -> None:
        # Upstream's constructor is not called: it reads 40 pictures from disk. Its attribute names are kept, because
        # its render() and spaces are inherited.
        self._area = (int(area[0]), int(area[1]))
        self._view = np.array(np.broadcast_to(view, 2))
        self._size = np.array(np.broadcast_to(size, 2))
        self._reward = reward
        self._length = length
        self._seed = int(np.random.randint(0, _SEED_RANGE)) if seed is None else seed
        self._episode = 0
        self._images = images
        self._semantic = semantic
        self._world = World(self._area)
        self._reach = 2 * int(max(self._view))
        self._candidates: list[Thing] = []
        self._candidates_of = (0, 0)
        self._item_rows = int(np.ceil(len(ITEMS) / self._view[0]))
        grid = np.array([self._view[0], self._view[1] - self._item_rows])
        self._noise_draws = int(np.prod(grid * (self._size // self._view)))
        self.reward_range = None
        self.metadata = None

    def view(self) -> WorldView:
        """The read-only view. It stays valid across resets."""
        return WorldView(self._world)

    def reset(self) -> Image | None:
        """Starts the next episode: upstream derives its world from (seed, number of the episode)."""
        self._episode += 1
        world = self._world
        terrain = generate(hash((self._seed, self._episode)) % _SEED_RANGE, self._area)
        world.load(terrain)
        world.daylight = daylight(0)
        player = Player(world, (self._area[0] // 2, self._area[1] // 2))
        self._player = world.player = player
        world.add(player)
        for kind, x, y in terrain.creatures:
            if kind == kernels.COW:
                world.add(Cow(world, (x, y)))
            elif kind == kernels.ZOMBIE:
                world.add(Zombie(world, (x, y), player))
            else:
                world.add(Skeleton(world, (x, y), player))
        self._last_health = player.health
        self._unlocked: set[str] = set()
        self._counted = 0
        return self._obs()

    def step(self, action: int) -> StepResult:
        """Upstream's step: (observation or None, reward, done, info)."""
        world, player = self._world, self._player
        world.step += 1
        world.daylight = daylight(world.step)
        player.action = ACTIONS[action]
        self._update_things()
        if world.step % EVERY_STEPS == 0:
            balance(world, player)
        observation = self._obs()
        reward = self._step_reward()
        dead = player.inventory["health"] <= 0
        info: dict[str, Any] = {
            "inventory": player.inventory.copy(),
            "achievements": player.achievements.copy(),
            "discount": 1 - float(dead),
            "player_pos": player.pos,
            "reward": reward,
        }
        if self._semantic:
            info["semantic"] = self.semantic()
        done = dead or bool(self._length and world.step >= self._length)
        return observation, reward if self._reward else 0.0, done, info

    def render(self, size: Any = None) -> Image:
        """Upstream's picture. Unlike upstream, drawing it puts the random stream back."""
        state = self._world.random.getstate()
        try:
            image: Image = super().render(size)
        finally:
            self._world.random.setstate(state)
        return image

    def semantic(self) -> Image:
        """Upstream's semantic map: material ids, and the ids of kinds of things above them."""
        canvas = self._world.material_map.copy()
        for thing in self._world.objects:
            canvas[thing.pos] = _SEMANTIC_ID[type(thing)]
        return canvas

    def _update_things(self) -> None:
        """The player first (it is the oldest thing), then what is near it; the list is fixed before anything moves."""
        world, player, reach = self._world, self._player, self._reach
        things = self._near_soon()
        player.update(world)
        px, py = player.pos
        for thing in things:
            x, y = thing.pos
            if abs(x - px) + abs(y - py) < reach and thing is not player:
                thing.update(world)

    def _near_soon(self) -> list[Thing]:
        """At least every thing that will be near in this step, oldest first.

        The list is good for some steps: the player moves one cell per step, and what is not near does not move.
        """
        world = self._world
        now = world.step // _STEPS_AHEAD, world.comings_and_goings
        if now != self._candidates_of:
            self._candidates_of = now
            (px, py), reach = self._player.pos, self._reach + _STEPS_AHEAD
            self._candidates = [
                thing for thing in world.things.values() if abs(thing.pos[0] - px) + abs(thing.pos[1] - py) < reach
            ]
        return self._candidates

    def _step_reward(self) -> float:
        """A tenth per point of health, and one if anything was achieved for the first time."""
        player = self._player
        health = player.inventory["health"]
        reward = (health - self._last_health) / 10
        self._last_health = health
        counted = sum(player.achievements.values())
        if counted != self._counted:
            self._counted = counted
            unlocked = {name for name, count in player.achievements.items() if count > 0} - self._unlocked
            if unlocked:
                self._unlocked |= unlocked
                reward += 1.0
        return reward

    def _obs(self) -> Image | None:
        if self._images:
            image: Image = super().render()
            return image
        if self._world.daylight < _DARK:
            # Upstream draws night noise from the world's own stream, once per pixel.
            self._world.random.skip_doubles(self._noise_draws)
        return None

    @property
    def _step(self) -> int:
        return self._world.step

    @functools.cached_property
    def _local_view(self) -> Any:
        return engine.LocalView(self._world, _textures(), [self._view[0], self._view[1] - self._item_rows])

    @functools.cached_property
    def _item_view(self) -> Any:
        return engine.ItemView(_textures(), [self._view[0], self._item_rows])


@functools.lru_cache(maxsize=1 << 15)
def daylight(step: int) -> float:
    """Upstream's light curve, in its own numpy operations because the last bit matters."""
    progress = (step / 300) % 1 + 0.3
    return float(1 - np.abs(np.cos(np.pi * progress)) ** 3)


@functools.cache
def _textures() -> Any:
    return engine.Textures(constants.root / "assets")
