"""Crafter with Gymnasium's API, for agents that learn from pixels.

The only file that needs the package ``gymnasium``; nothing else of the project imports it.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.crafter.info import MAX_SEED
from envs.crafter.rules import ACTIONS
from envs.crafter.world import CrafterWorld, Image

_FRAMES_PER_S = 10


class CrafterGym(gymnasium.Env[Image, np.int64]):
    """Observations are pictures of ``size`` x ``size`` pixels, rewards are upstream's.

    ``reset(seed=s)`` starts the world that ``crafter.Env(seed=s)`` starts with; a reset without a seed starts the next
    world of the same seed, and the first one without any seed picks one at random.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": _FRAMES_PER_S}  # noqa: RUF012 - as declared

    def __init__(self, size: int = 64, length: int | None = 10000, render_mode: str | None = None) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"unknown render_mode {render_mode!r}, known: rgb_array")
        self.render_mode = render_mode
        self.action_space = spaces.Discrete(len(ACTIONS))
        self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self._size = size
        self._length = length
        self._world: CrafterWorld | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Image, dict[str, Any]]:
        """Starts an episode: (picture, info). There are no ``options``."""
        super().reset(seed=seed)
        if seed is not None or self._world is None:
            chosen = int(self.np_random.integers(MAX_SEED)) if seed is None else seed
            self._world = CrafterWorld(size=self._size, length=self._length, seed=chosen, images=True)
        picture = self._world.reset()
        assert picture is not None  # noqa: S101 - images=True
        view = self._world.view()
        info = {
            "inventory": dict(view.inventory),
            "achievements": dict(view.achievements),
            "player_pos": view.position,
        }
        return picture, info

    def step(self, action: np.int64 | int) -> tuple[Image, float, bool, bool, dict[str, Any]]:
        """(picture, reward, terminated, truncated, info): terminated by death, truncated by the world's length."""
        picture, reward, done, info = self._started().step(int(action))
        assert picture is not None  # noqa: S101 - images=True
        dead = info["discount"] == 0
        return picture, float(reward), dead, done and not dead, info

    def render(self) -> Any:
        """The present picture with render_mode "rgb_array", else None. Looking changes nothing."""
        return None if self.render_mode is None else self._started().render()

    def _started(self) -> CrafterWorld:
        if self._world is None:
            raise gymnasium.error.ResetNeeded("call reset() first")
        return self._world
