"""What a task app does, whatever serves it: play episodes of its task. Knows nothing about HTTP or Ray."""

from __future__ import annotations

from typing import Any

from envs.registry import get_task
from serve.call_batcher import CallBatcher, SendMany
from synth_ray.core.errors import ConfigError
from synth_ray.core.hashing import derived_seed
from synth_ray.core.origins import InferenceOrigins
from synth_ray.core.types import EpisodeSpec, Rollout
from synth_ray.learn.model_source import local_model
from synth_ray.rollout.chat import load_chat
from synth_ray.rollout.episode import play
from synth_ray.rollout.policy import EnginePolicy, Policy, TeacherPolicy
from synth_ray.rollout.prices import price_list
from synth_ray.rollout.remote.client import ChatClient
from synth_ray.rollout.remote.policy import RemotePolicy


class TaskHost:
    """Plays episodes of one task; ``generate`` reaches the engine, ``chat`` the remote models at ``origins``."""

    def __init__(
        self,
        app_id: str,
        generate: SendMany,
        origins: InferenceOrigins | None = None,
        chat: ChatClient | None = None,
    ) -> None:
        self.task = get_task(app_id)
        self.origins, self.chat = origins or InferenceOrigins(), chat or ChatClient()
        self._generate = generate
        self._batchers: dict[int, CallBatcher] = {}

    async def play(self, spec: EpisodeSpec) -> Rollout:
        """One episode. Raises ConfigError for a wrong spec; everything later is in the rollout."""
        if get_task(spec.task).name != self.task.name:
            raise ConfigError(f"this task app serves {self.task.name!r}, not {spec.task!r}")
        prices = price_list(spec.rewards, self.task.prices)
        episode = self.task.open(spec.seed, spec.env_config, spec.max_turns)
        return await play(spec, episode, self._policy(spec), prices)

    def info(self, seeds: list[int]) -> dict[str, Any]:
        """What the task says of itself."""
        return self.task.info(seeds)

    def _policy(self, spec: EpisodeSpec) -> Policy:
        if spec.provider == "remote":
            return RemotePolicy(self.chat, self.origins, spec, self.task.tools(spec.env_config))
        if spec.provider != "engine":
            seed = derived_seed("teacher", spec.rollout_id if spec.sampling.seed is None else spec.sampling.seed)
            return TeacherPolicy(self.task.teacher(spec.provider, spec.teacher, seed, spec.max_turns))
        if spec.weights is None:
            raise ConfigError("a rollout by the engine must name its weights")
        chat = load_chat(str(local_model(spec.weights.base_dir)))
        batcher = self._batchers.setdefault(spec.calls_together, CallBatcher(self._generate, spec.calls_together))
        return EnginePolicy(batcher, chat, spec.rollout_id, spec.weights, spec.sampling)
