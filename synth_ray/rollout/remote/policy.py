"""The policy whose replies come from a remote endpoint."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from synth_ray.core.errors import ConfigError
from synth_ray.core.hashing import derived_seed
from synth_ray.core.origins import VENDORS, InferenceOrigins
from synth_ray.core.types import EpisodeSpec, Message, Reply
from synth_ray.rollout.remote.client import ChatClient
from synth_ray.rollout.remote.reply import invalid_reply, read_reply
from synth_ray.rollout.remote.request import chat_body, check_body
from synth_ray.rollout.task import Episode


class RemotePolicy:
    """Plays one episode, from its construction on: all turns share the episode's deadline.

    Raises ConfigError for a wrong spec or an origin that is not allowed, PrerequisiteError for a missing key.
    """

    def __init__(
        self, client: ChatClient, origins: InferenceOrigins, spec: EpisodeSpec, tools: Sequence[Mapping[str, Any]]
    ) -> None:
        if spec.endpoint is None:
            raise ConfigError("a rollout by a remote model must name its endpoint")
        check_body(spec.endpoint.body)
        self._target = origins.target(spec.endpoint.url)
        named = spec.endpoint.vendor if spec.endpoint.vendor in VENDORS else ""
        self._vendor = self._target.vendor or named
        self._client, self._spec, self._endpoint, self._tools = client, spec, spec.endpoint, tools
        self._deadline = time.monotonic() + spec.deadline_s

    async def reply(self, messages: Sequence[Message], turn: int, episode: Episode) -> Reply:
        """The model's reply. Nonsense is an invalid turn; PolicyError if there is no answer at all."""
        sampling = self._spec.sampling
        seed = derived_seed(self._spec.rollout_id if sampling.seed is None else sampling.seed, turn)
        body = chat_body(self._endpoint, self._vendor, messages, self._tools, sampling, seed)
        left_s = self._deadline - time.monotonic()
        completion = await self._client.complete(self._target, body, self._endpoint.timeout_s, left_s)
        return invalid_reply(completion.problem) if completion.value is None else read_reply(completion.value)
