"""The gateway on Ray Serve: OpenAI's API over the policy's handle, and the jobs of this cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import serve as ray_serve

from envs.registry import TASKS
from serve import policy
from serve.backend.service import Backend
from serve.call_batcher import Answer
from serve.gateway import Gateway
from serve.gateway_http import create_app
from synth_ray.core.errors import PolicyError, PrerequisiteError
from synth_ray.core.paths import Home
from synth_ray.core.secrets import (
    ENVIRONMENT_KEY,
    ENVIRONMENT_KEY_ALIASES,
    SYNTH_KEY,
    KeyRing,
    KeysFile,
    gateway_keys,
)
from synth_ray.core.types import GenerateRequest
from synth_ray.records.job_files import JobFiles
from synth_ray.runtime import cluster
from synth_ray.runtime.adapters import AdapterBlob, store_actor
from synth_ray.runtime.devices import EngineSpec
from synth_ray.runtime.job_client import JobClient, Submitted
from synth_ray.runtime.remote import answered

APP = "gateway"
ROUTE = "/"
_PUBLISH_TIMEOUT_S = 60.0


class ServeEngine:
    """The policy application of this cluster, by its handle."""

    def __init__(self) -> None:
        self._handle: Any = None

    async def generate(self, requests: Sequence[GenerateRequest]) -> Sequence[Answer]:
        """A reply or an error to each request; each travels by itself, so that replicas share them."""
        handle = await self._policy()
        answers = await asyncio.gather(*(answered(handle.generate.remote([request])) for request in requests))
        return [answer for (answer,) in answers]

    async def spec(self) -> EngineSpec:
        """How the engine was started."""
        spec: EngineSpec = await answered((await self._policy()).spec.remote())
        return spec

    async def publish(self, blob: AdapterBlob) -> None:
        """Puts an adapter into the cluster's store."""
        try:
            async with asyncio.timeout(_PUBLISH_TIMEOUT_S):
                await answered(store_actor().publish.remote(blob))
        except TimeoutError:
            raise PolicyError(f"the adapter store did not answer within {_PUBLISH_TIMEOUT_S:.0f} s") from None

    async def _policy(self) -> Any:
        if self._handle is None:
            applications = (await asyncio.to_thread(ray_serve.status)).applications
            if policy.APP not in applications:
                raise PrerequisiteError("no engine is running", "start one with: synth-ray deploy --model MODEL")
            self._handle = ray_serve.get_app_handle(policy.APP)
        return self._handle


class ClusterJobs:
    """Jobs of the local cluster, through Ray's Jobs API."""

    def __init__(self, home: Home, env_file: Path) -> None:
        self._home, self._env_file = home, env_file

    def submit(self, kind: str, config: Path, job_id: str) -> None:
        """Starts a job under this id."""
        self._client().submit(kind, [config], job_id=job_id)

    def stop(self, job_id: str) -> None:
        """Asks a job to stop."""
        self._client().stop(Submitted(job_id, "", JobFiles(self._home.jobs / job_id)))

    def _client(self) -> JobClient:
        return JobClient(cluster.require(self._home), self._home, self._env_file)


class GatewayReplica:
    """One process; everything that takes long happens elsewhere."""

    def __init__(self, home: Home, env_file: str) -> None:
        path = Path(env_file) if env_file else None
        self._keys_file = KeysFile(path, (SYNTH_KEY, ENVIRONMENT_KEY, ENVIRONMENT_KEY_ALIASES))
        self._keys = KeyRing(gateway_keys(path))
        self._gateway = Gateway(home, ServeEngine())
        self._backend = Backend(home, ClusterJobs(home, Path(env_file)), _running_task_apps)

    async def ready(self) -> dict[str, Any]:
        """Answers once the replica can serve."""
        keys = {"env_file": str(self._keys_file.path or ""), "keys_changed": self._keys_file.changed()}
        return {"app": APP, **keys}

    async def __serve_build_asgi_app__(self) -> Any:
        """The HTTP side (Ray Serve calls this)."""
        return create_app(self._gateway, self._backend, self._keys)


def build(home: Home, env_file: str, resources: Mapping[str, float]) -> Any:
    """The Serve application of the gateway; ``resources`` name the node that has ``home`` and ``env_file``."""
    deployment = ray_serve.deployment(
        ray_serve.ingress()(GatewayReplica),
        name="Gateway",
        max_ongoing_requests=1024,
        ray_actor_options={"num_cpus": 0, "resources": dict(resources)},
        graceful_shutdown_timeout_s=5,
    )
    return deployment.bind(home, env_file)


def _running_task_apps() -> list[str]:
    return [name for name, one in ray_serve.status().applications.items() if name in TASKS and one.status == "RUNNING"]
