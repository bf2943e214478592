"""The task app on Ray Serve: HTTP for outside users, a handle for coordinators and evaluations inside the cluster."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import serve as ray_serve

from envs.registry import source_digest
from serve import policy
from serve.call_batcher import Answer
from serve.task_host import TaskHost
from serve.task_http import create_app
from synth_ray.core.origins import TASK_APP_NAMES, read_origins
from synth_ray.core.paths import import_also_from
from synth_ray.core.secrets import KeyRing, KeysFile, environment_keys
from synth_ray.core.types import EpisodeSpec, GenerateRequest, Rollout
from synth_ray.runtime.remote import answered

MAX_ONGOING = 1024

_GC_THRESHOLDS = (1000, 5, 5000)


class TaskAppReplica:
    """One process that plays many episodes at a time; stepping a world is short, waiting for replies is async."""

    def __init__(self, app_id: str, env_file: str, own_origin: str, project: str) -> None:
        import_also_from(Path(project))
        path = Path(env_file) if env_file else None
        self._keys_file = KeysFile(path, TASK_APP_NAMES)  # First: what changes while the rest is read shows later.
        self._keys = KeyRing(environment_keys(path))
        self._host = TaskHost(app_id, self._generate, read_origins(path, own_origin))
        self._source = source_digest(app_id)
        self._handle: Any = None
        spare_collections()

    async def play(self, spec: EpisodeSpec) -> Rollout:
        """One episode, for callers inside the cluster."""
        return await self._host.play(spec)

    async def ready(self) -> dict[str, Any]:
        """Answers once the replica can play."""
        keys = {"env_file": str(self._keys_file.path or ""), "keys_changed": self._keys_file.changed()}
        return {"task": self._host.task.name, "source": self._source, **keys}

    async def __serve_build_asgi_app__(self) -> Any:
        """The HTTP side (Ray Serve calls this)."""
        return create_app(self._host, self._keys)

    async def _generate(self, requests: Sequence[GenerateRequest]) -> Sequence[Answer]:
        if self._handle is None:
            self._handle = ray_serve.get_app_handle(policy.APP)
        answers: Sequence[Answer] = await answered(self._handle.generate.remote(requests))
        return answers


def spare_collections() -> None:
    """Makes the passes of the garbage collector rare, and leaves everything that exists now out of them.

    Rollouts leave no reference cycles behind (a test sees to it), and a full pass over what is kept stops all others
    for up to 0.1 s.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


def build(app_id: str, env_file: str, own_origin: str, project: str) -> Any:
    """The Serve application of a task app, served at ``own_origin``.

    ``env_file`` is where its keys are read and ``project`` where a task of the user's own is, on its own machine.
    """
    deployment = ray_serve.deployment(
        ray_serve.ingress()(TaskAppReplica),
        name="TaskApp",
        max_ongoing_requests=MAX_ONGOING,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=5,
    )
    return deployment.bind(app_id, env_file, own_origin, project)
