"""Crafter as a task: single-turn chats, one per decision, over a world that keeps the state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from envs.crafter.config import CrafterConfig, ExpertConfig, checked, did_you_mean
from envs.crafter.prompt import system_prompt
from envs.crafter.rules import ACHIEVEMENTS, ACTION_ID, ACTIONS, MATERIALS, TREE
from envs.crafter.teacher import ExpertTeacher
from envs.crafter.text import RENDERERS
from envs.crafter.tools import parse_actions, tool_schema
from envs.crafter.view import WorldView
from envs.crafter.world import CrafterWorld, Image
from envs.film import Frame
from synth_ray.core.errors import ConfigError
from synth_ray.core.types import Message, Rollout, StepFacts

TASK_NAME = "grpo-crafter"
VERSION = "1.0.0"

_TRAIT_RADIUS = 10
_HOSTILES = frozenset({"zombie", "skeleton"})


class CrafterEpisode:
    """One play-through. The chat is Markov: it shows the present observation and no history."""

    def __init__(self, seed: int, config: CrafterConfig, max_turns: int) -> None:
        self.config = config
        self._world = CrafterWorld(length=config.length, seed=seed)
        self._world.reset()
        self._render = RENDERERS[config.renderer]
        self._system = system_prompt(config.max_actions_per_turn, max_turns) if config.system_prompt else ""
        self._done = False
        self.view: WorldView = self._world.view()
        """Read-only view of the world, for teachers and viewers."""

    @property
    def achievements(self) -> tuple[str, ...]:
        """Everything unlocked so far, in the order of the game's own list."""
        return self.view.unlocked

    @property
    def outcome(self) -> float:
        """Number of unique achievements so far."""
        return float(len(self.achievements))

    def messages(self) -> tuple[Message, ...]:
        """One user message with the observation, after the system message if there is one."""
        observation = Message("user", self._render(self.view))
        return (Message("system", self._system), observation) if self._system else (observation,)

    def step(self, reply_text: str, extra: Mapping[str, Any]) -> StepFacts:
        """Executes the reply's actions one by one, up to the end of the world."""
        if self._done:
            return StepFacts(actions=(), done=True, problem="the episode is over")
        parsed = parse_actions(reply_text, extra, self.config.max_actions_per_turn, report_cut=self.config.report_cut)
        inventory, counters, unlocked = dict(self.view.inventory), dict(self.view.achievements), self.view.unlocked
        executed, reward = self._execute(parsed.actions)
        return StepFacts(
            actions=executed,
            unlocked=tuple(name for name in self.view.unlocked if name not in unlocked),
            inventory_delta=_changes(inventory, self.view.inventory),
            counter_delta=_changes(counters, self.view.achievements),
            env_steps=len(executed),
            env_reward=reward,
            done=self._done,
            problem=parsed.problem,
        )

    def render(self, size: tuple[int, int]) -> Image:
        """The world as a picture of ``size`` (width, height) pixels; looking changes nothing."""
        return self._world.render(size)

    def _execute(self, actions: Sequence[str]) -> tuple[tuple[str, ...], float]:
        executed: list[str] = []
        total = 0.0
        for action in actions:
            _, reward, self._done, _ = self._world.step(ACTION_ID[action])
            executed.append(action)
            total += reward
            if self._done:
                break
        return tuple(executed), total


class CrafterTask:
    """Opens Crafter episodes and offers the scripted expert as their teacher."""

    name = TASK_NAME

    def open(self, seed: int, config: Mapping[str, Any], max_turns: int) -> CrafterEpisode:
        """An episode in the world that ``crafter.Env(seed=seed).reset()`` generates."""
        return CrafterEpisode(seed, checked(CrafterConfig, config, "env config"), max_turns)

    def teacher(self, name: str, config: Mapping[str, Any], seed: int, max_turns: int) -> ExpertTeacher:
        """The teacher "expert"; its settings are those of ExpertConfig."""
        if name != "expert":
            raise ConfigError(f"unknown teacher {name!r}", did_you_mean(name, ["expert"]))
        return ExpertTeacher(checked(ExpertConfig, config, "teacher config"), seed, max_turns)

    def replay(self, rollout: Rollout, scale: int) -> Iterator[Frame]:
        """The frames of a recorded rollout. Raises CorruptError at the first turn that goes otherwise."""
        from envs.crafter.film import frames  # Pillow's font and upstream's textures, which playing doesn't need

        return frames(rollout, scale)

    def info(self, seeds: Sequence[int] = ()) -> dict[str, Any]:
        """What the task is, and for each of ``seeds`` what lies around the start."""
        limit = CrafterConfig().max_actions_per_turn
        return {
            "task": {
                "id": TASK_NAME,
                "name": "Crafter",
                "description": "Survive in a 2D world and unlock as many of 22 achievements as possible.",
                "version": VERSION,
            },
            "environment": "crafter",
            "action_space": {"type": "discrete", "size": len(ACTIONS), "actions": list(ACTIONS)},
            "achievements": list(ACHIEVEMENTS),
            "observation": {"type": "text", "renderers": list(RENDERERS)},
            "tools": [tool_schema(limit)],
            "limits": {"max_actions_per_turn": limit, "max_env_steps": CrafterConfig().length},
            "seeds": [{"seed": seed, "traits": start_traits(seed)} for seed in seeds],
        }


def start_traits(seed: int) -> dict[str, int]:
    """Trees, cows and hostile creatures within Manhattan distance 10 of the start."""
    world = CrafterWorld(seed=seed)
    world.reset()
    view = world.view()
    nearby = [kind for kind, pos in view.objects() if _distance(pos, view.position) <= _TRAIT_RADIUS]
    return {
        "trees": _count_near(view, MATERIALS[TREE]),
        "cows": nearby.count("cow"),
        "hostiles": sum(kind in _HOSTILES for kind in nearby),
    }


def _count_near(view: WorldView, material: str | None) -> int:
    x, y = view.position
    reach = range(-_TRAIT_RADIUS, _TRAIT_RADIUS + 1)
    return sum(
        view.material_at(x + dx, y + dy) == material
        for dx in reach
        for dy in reach
        if abs(dx) + abs(dy) <= _TRAIT_RADIUS
    )


def _distance(one: tuple[int, int], other: tuple[int, int]) -> int:
    return abs(one[0] - other[0]) + abs(one[1] - other[1])


def _changes(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    return {name: value - before[name] for name, value in after.items() if value != before[name]}
