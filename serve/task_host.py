"""What a task app does, whatever serves it: play episodes of its task. Knows nothing about HTTP or Ray.

Invariants: a rollout id is played once at a time, and a finished rollout is handed out again for a while; the event
loop does only what is short: worlds and tokenizers are made in a thread of their own.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from envs.registry import get_task, names, task_id
from serve.call_batcher import CallBatcher, SendMany
from serve.once import OncePerId
from synth_ray.core.errors import ConfigError, DeadlineError, NotFoundError, PrerequisiteError
from synth_ray.core.hashing import derived_seed
from synth_ray.core.origins import InferenceOrigins
from synth_ray.core.types import EpisodeSpec, Rollout, Weights
from synth_ray.learn.model_source import local_model
from synth_ray.rollout.chat import Chat, load_chat
from synth_ray.rollout.episode import play
from synth_ray.rollout.limits import LIMITS
from synth_ray.rollout.policy import EnginePolicy, Policy, TeacherPolicy
from synth_ray.rollout.prices import Prices, price_list
from synth_ray.rollout.remote.client import ChatClient
from synth_ray.rollout.remote.policy import RemotePolicy
from synth_ray.rollout.task import Episode


class TaskHost:
    """Plays episodes of one task.

    ``generate`` reaches the engine, and is None where there is none; ``chat`` reaches remote models at ``origins``.
    """

    def __init__(
        self,
        app_id: str,
        generate: SendMany | None,
        origins: InferenceOrigins | None = None,
        chat: ChatClient | None = None,
    ) -> None:
        self.task = get_task(app_id)
        self._id, self._names = task_id(app_id), names(app_id) | {self.task.name}
        self.origins, self.chat = origins or InferenceOrigins(), chat or ChatClient()
        self._generate = generate
        self._batchers: dict[int, CallBatcher] = {}
        self._rollouts: OncePerId[EpisodeSpec, Rollout] = OncePerId(_worth_keeping)
        # One thread: rollouts of one seed that start together find the world that the first of them has made.
        self._maker = ThreadPoolExecutor(1, "maker")

    async def play(self, spec: EpisodeSpec) -> Rollout:
        """One episode, once per rollout id.

        Raises NotFoundError for another task's name, ConfigError for a wrong spec, and ConflictError for an id that
        stands for another one; everything later is in the rollout. A rollout whose callers are all gone ends a while
        later (``serve.once``).
        """
        spec = self.accepted(spec)
        prices = price_list(spec.rewards, self.task.prices)
        return await self._rollouts.run(spec.rollout_id, spec, lambda: self._play(spec, prices))

    def accepted(self, spec: EpisodeSpec) -> EpisodeSpec:
        """``spec`` as it is played and recorded: by whichever of its names it calls the task, under the task's id.

        Raises NotFoundError for another task's name, ConfigError for a spec beyond the limits.
        """
        if not self.serves(spec.task):
            raise NotFoundError(f"this task app serves {min(self._names)!r}, not {spec.task!r}")
        LIMITS.check(spec)
        return replace(spec, task=self._id)

    async def _play(self, spec: EpisodeSpec, prices: Prices) -> Rollout:
        try:
            async with asyncio.timeout(spec.deadline_s):
                episode = await asyncio.get_running_loop().run_in_executor(self._maker, self._open, spec)
        except TimeoutError:
            raise DeadlineError(f"the world of seed {spec.seed} was not made within {spec.deadline_s:g} s") from None
        return await play(spec, episode, self._policy(spec), prices)

    def serves(self, name: str) -> bool:
        """Whether ``name`` is one of the task's; it may come from a request, so it is never looked up or imported."""
        return name in self._names

    def info(self, seeds: list[int]) -> dict[str, Any]:
        """What the task says of itself, with what every task has; makes a world for every seed, so call it with seeds
        in a thread only.
        """
        told, name = self.task.info(seeds), self.task.name
        about = {"id": name, "name": name, "version": "", "description": "", **told.get("task", {})}
        return {"environment": name, **told, "task": about}

    async def seed_infos(self, seeds: list[int]) -> list[dict[str, Any]]:
        """One ``info`` per seed; rollouts that start meanwhile take their turns in between."""
        loop = asyncio.get_running_loop()
        return [await loop.run_in_executor(self._maker, self.info, [seed]) for seed in seeds]

    def _open(self, spec: EpisodeSpec) -> Episode:
        if spec.weights and self._generate:
            _chat(spec.weights)  # The first time it is read from disk.
        return self.task.open(spec.seed, spec.env_config, spec.max_turns)

    def _policy(self, spec: EpisodeSpec) -> Policy:
        if spec.provider == "remote":
            return RemotePolicy(self.chat, self.origins, spec, self.task.tools(spec.env_config))
        if spec.provider != "engine":
            seed = derived_seed("teacher", spec.rollout_id if spec.sampling.seed is None else spec.sampling.seed)
            return TeacherPolicy(self.task.teacher(spec.provider, spec.teacher, seed, spec.max_turns))
        if spec.weights is None:
            raise ConfigError("a rollout by the engine must name its weights")
        if self._generate is None:
            raise PrerequisiteError("this task app has no engine", "run: synth-ray deploy --runtime serve")
        batcher = self._batchers.setdefault(spec.calls_together, CallBatcher(self._generate, spec.calls_together))
        return EnginePolicy(batcher, _chat(spec.weights), spec.rollout_id, spec.weights, spec.sampling, spec.thinking)


def _chat(weights: Weights) -> Chat:
    return load_chat(str(local_model(weights.base_dir)))


def _worth_keeping(spec: EpisodeSpec, rollout: Rollout) -> bool:
    """A failed rollout shall be played again; one by the engine carries all its tokens, which is too much to keep."""
    return rollout.ok and spec.provider != "engine"
