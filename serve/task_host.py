"""What a task app does, whatever serves it: play episodes of its task. Knows nothing about HTTP or Ray."""

from __future__ import annotations

from typing import Any

from envs.registry import get_task, names
from serve.call_batcher import CallBatcher, SendMany
from synth_ray.core.errors import ConfigError
from synth_ray.core.hashing import derived_seed
from synth_ray.core.types import EpisodeSpec, Rollout
from synth_ray.learn.model_source import local_model
from synth_ray.rollout.chat import load_chat
from synth_ray.rollout.episode import play
from synth_ray.rollout.policy import EnginePolicy, Policy, TeacherPolicy


class TaskHost:
    """Plays episodes of one task; ``generate`` reaches the engine."""

    def __init__(self, app_id: str, generate: SendMany) -> None:
        self.task = get_task(app_id)
        self._names = names(app_id) | {self.task.name}
        self._generate = generate
        self._batchers: dict[int, CallBatcher] = {}

    async def play(self, spec: EpisodeSpec) -> Rollout:
        """One episode. Raises ConfigError for a wrong spec; everything later is in the rollout."""
        if spec.task not in self._names:  # a name may come from a request, so it is never looked up or imported
            raise ConfigError(f"this task app serves {min(self._names)!r}, not {spec.task!r}")
        episode = self.task.open(spec.seed, spec.env_config, spec.max_turns)
        return await play(spec, episode, self._policy(spec))

    def info(self, seeds: list[int]) -> dict[str, Any]:
        """What the task says of itself."""
        return self.task.info(seeds)

    def _policy(self, spec: EpisodeSpec) -> Policy:
        if spec.provider != "engine":
            seed = derived_seed("teacher", spec.rollout_id if spec.sampling.seed is None else spec.sampling.seed)
            return TeacherPolicy(self.task.teacher(spec.provider, spec.teacher, seed, spec.max_turns))
        if spec.weights is None:
            raise ConfigError("a rollout by the engine must name its weights")
        chat = load_chat(str(local_model(spec.weights.base_dir)))
        batcher = self._batchers.setdefault(spec.calls_together, CallBatcher(self._generate, spec.calls_together))
        return EnginePolicy(batcher, chat, spec.rollout_id, spec.weights, spec.sampling)
