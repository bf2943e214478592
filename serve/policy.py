"""The policy on Ray Serve: token ids in; token ids, log-probs and digest out. Reached by handle only, never by HTTP."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import ray
from ray import serve as ray_serve

from serve.call_batcher import Answer
from synth_ray.core.errors import SynthRayError
from synth_ray.core.types import GenerateRequest
from synth_ray.runtime.adapters import AdapterBlob, store_actor
from synth_ray.runtime.devices import EngineSpec
from synth_ray.runtime.engine import Engine
from synth_ray.runtime.remote import answered, local_error

APP = "policy"
log = logging.getLogger("ray.serve")


class PolicyReplica:
    """One engine. A start that fails is kept as an answer, so that it is told once and not tried for ever."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._engine = Engine(spec, _fetch)
        self._failure: SynthRayError | None = None
        self._started = asyncio.Event()
        self._starting = asyncio.ensure_future(self._start())

    async def ready(self) -> dict[str, Any]:
        """Waits for the engine; raises why it could not start."""
        await self._started.wait()
        if self._failure:
            raise self._failure
        return {"base": self._engine.base, "device": self._spec.device, "served": self._engine.served}

    async def spec(self) -> EngineSpec:
        """How this engine was started."""
        return self._spec

    async def gpus(self) -> list[str]:
        """Ids of the GPUs that Ray gave to this replica."""
        return [str(gpu) for gpu in ray.get_runtime_context().get_accelerator_ids().get("GPU", [])]

    async def generate(self, requests: Sequence[GenerateRequest]) -> list[Answer]:
        """A reply to each request, by exactly the weights that it names; an error is the answer to its own request."""
        await self.ready()
        return list(await asyncio.gather(*(self._answer(request) for request in requests)))

    async def check_health(self) -> None:
        """Serve replaces the replica when this raises."""
        await self._engine.check()

    async def _answer(self, request: GenerateRequest) -> Answer:
        try:
            return await self._engine.generate(request)
        except SynthRayError as error:
            return error
        except Exception as error:
            if self._engine.dead:
                # A dead actor is replaced at once, a failing health check only after half a minute.
                log.exception("the engine core died; ending this replica")
                os._exit(1)
            return local_error(error)

    async def _start(self) -> None:
        try:
            await self._engine.start()
        except SynthRayError as error:
            self._failure = error
        self._started.set()

    def __del__(self) -> None:
        with suppress(Exception):
            self._engine.close()


def build(spec: EngineSpec) -> Any:
    """The Serve application of the policy."""
    deployment = ray_serve.deployment(
        PolicyReplica,
        name="Policy",
        max_ongoing_requests=4 * spec.options.max_num_seqs,
        ray_actor_options={
            "num_cpus": 0,
            "num_gpus": spec.num_gpus,
            "runtime_env": {"env_vars": spec.env},
        },
        health_check_period_s=10,
        health_check_timeout_s=60,
        graceful_shutdown_timeout_s=10,
    )
    return deployment.bind(spec)


async def _fetch(name: str) -> AdapterBlob:
    blob: AdapterBlob = await answered(store_actor().get.remote(name))
    return blob
