"""Environments that a client steps by hand: kept by id, bounded in number, gone when nobody has used them for a while.

Invariant: at most ``limit`` are alive; each belongs to this process, so that a client must stay with one replica.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serve.http_errors import TooManyError
from synth_ray.core.errors import NotFoundError
from synth_ray.core.types import StepFacts
from synth_ray.rollout.episode import messages_of
from synth_ray.rollout.limits import LIMITS
from synth_ray.rollout.task import Episode, Task
from synth_ray.rollout.tool_calls import TOOL_NAME

LIVE_LIMIT = 64
IDLE_S = 900.0


@dataclass(slots=True)
class LiveEnv:
    """One environment; ``steps`` counts the decisions since its last reset."""

    env_id: str
    seed: int
    config: Mapping[str, Any]
    episode: Episode
    steps: int = 0
    done: bool = False
    used_at: float = field(default_factory=time.monotonic)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by who changes the episode or looks at it: a picture is drawn in a thread."""

    async def step(self, calls: Sequence[Mapping[str, Any]], text: str = "") -> StepFacts:
        """One decision, by OpenAI-shaped tool calls or by a reply's text."""
        async with self.turn:
            facts = self.episode.step(text or _as_text(calls), {"tool_calls": list(calls)} if calls else {})
            self.steps += 1
            self.done = facts.done
            return facts

    async def observation(self) -> dict[str, Any]:
        """What a player sees now: the text that asks for the next decision, and its picture if it has one."""
        async with self.turn:
            message = (await messages_of(self.episode))[-1]
            image = {"image": message.images[0]} if message.images else {}
            return {"text": message.content, **image, "achievements": list(self.episode.achievements)}


class LiveEnvs:
    """The living environments of one task."""

    def __init__(self, task: Task, limit: int = LIVE_LIMIT, idle_s: float = IDLE_S) -> None:
        self._task, self._limit, self._idle_s = task, limit, idle_s
        self._envs: dict[str, LiveEnv] = {}
        self._opening = 0

    async def create(self, seed: int, config: Mapping[str, Any]) -> LiveEnv:
        """A new one. Raises TooManyError at the limit, ConfigError for a wrong config."""
        self._drop_idle()
        if len(self._envs) + self._opening >= self._limit:
            raise TooManyError(
                f"{self._limit} environments are alive already", "terminate those that you no longer need"
            )
        env = LiveEnv(f"env_{secrets.token_hex(16)}", seed, dict(config), await self._open(seed, config))
        self._envs[env.env_id] = env
        return env

    async def reset(self, env_id: str, seed: int | None) -> LiveEnv:
        """The same one from its start, or from another seed's."""
        env = self.get(env_id)
        async with env.turn:
            env.seed = env.seed if seed is None else seed
            env.episode = await self._open(env.seed, env.config)
            env.steps, env.done = 0, False
        return env

    def get(self, env_id: str) -> LiveEnv:
        """The one of that id; NotFoundError if it never was, was terminated, or idled for too long."""
        self._drop_idle()
        env = self._envs.get(env_id)
        if env is None:
            raise NotFoundError("there is no such environment", f"one that idles for {self._idle_s:.0f} s is removed")
        env.used_at = time.monotonic()
        return env

    def terminate(self, env_id: str) -> None:
        """Removes the one of that id."""
        self.get(env_id)
        del self._envs[env_id]

    async def _open(self, seed: int, config: Mapping[str, Any]) -> Episode:
        self._opening += 1
        try:
            return await asyncio.to_thread(self._task.open, seed, config, LIMITS.turns)
        finally:
            self._opening -= 1

    def _drop_idle(self) -> None:
        oldest = time.monotonic() - self._idle_s
        for env_id in [env_id for env_id, env in self._envs.items() if env.used_at < oldest]:
            del self._envs[env_id]


def _as_text(calls: Sequence[Mapping[str, Any]]) -> str:
    """The reply in text that asks for the same actions, for a task that reads no tool calls; empty without actions."""
    actions = [action for call in calls for action in _actions(call["function"])]
    return json.dumps({"actions": actions}) if actions else ""


def _actions(function: Mapping[str, Any]) -> list[Any]:
    arguments = function["arguments"] if function["name"] == TOOL_NAME else None
    actions = arguments.get("actions") if isinstance(arguments, Mapping) else None
    return actions if isinstance(actions, list) else []
