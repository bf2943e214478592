"""Crafter as a task: opens episodes, offers the scripted expert, and says what things are worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from envs.crafter.config import CrafterConfig, ExpertConfig, checked, did_you_mean
from envs.crafter.episode import CrafterEpisode
from envs.crafter.info import TASK_NAME, task_info
from envs.crafter.prices import PRICES
from envs.crafter.teacher import ExpertTeacher
from envs.crafter.tools import FALLBACK, TOOL_NAME, parse_actions, tool_schema
from envs.film import Frame
from synth_ray.core.errors import ConfigError
from synth_ray.core.types import Rollout


class CrafterTask:
    """Opens Crafter episodes and offers the scripted expert as their teacher."""

    name = TASK_NAME
    prices = PRICES
    teachers: tuple[str, ...] = ("expert",)

    def open(self, seed: int, config: Mapping[str, Any], max_turns: int) -> CrafterEpisode:
        """An episode in the world that ``crafter.Env(seed=seed).reset()`` generates."""
        return CrafterEpisode(seed, checked(CrafterConfig, config, "env config"), max_turns)

    def teacher(self, name: str, config: Mapping[str, Any], seed: int, max_turns: int) -> ExpertTeacher:
        """The teacher "expert"; its settings are those of ExpertConfig."""
        if name != "expert":
            raise ConfigError(f"unknown teacher {name!r}", did_you_mean(name, ["expert"]))
        return ExpertTeacher(checked(ExpertConfig, config, "teacher config"), seed, max_turns)

    def tools(self, config: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The one tool, with the limit of actions that ``config`` sets."""
        return [tool_schema(checked(CrafterConfig, config, "env config").max_actions_per_turn)]

    def tool_call(self, reply_text: str) -> tuple[str, dict[str, Any]] | None:
        """The call that does what the text says; None for a text without a usable action."""
        parsed = parse_actions(reply_text, {}, CrafterConfig().max_actions_per_turn)
        if parsed.problem is not None and parsed.actions == FALLBACK:
            return None
        return TOOL_NAME, {"actions": list(parsed.actions)}

    def replay(self, rollout: Rollout, scale: int) -> Iterator[Frame]:
        """The frames of a recorded rollout. Raises CorruptError at the first turn that goes otherwise."""
        from envs.crafter.film import frames  # Pillow's font and upstream's textures, which playing doesn't need

        episode = self.open(rollout.seed, rollout.env_config, max(len(rollout.turns), 1))
        return frames(rollout, episode, scale)

    def info(self, seeds: Sequence[int] = ()) -> dict[str, Any]:
        """What the task is, and for each of ``seeds`` what lies around the start."""
        return task_info(seeds)
