"""The task app's HTTP contract. Every route but liveness needs a key; failures of authentication are all alike."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse

from serve.http_guard import Guard
from serve.task_host import TaskHost
from synth_ray import __version__
from synth_ray.core.errors import SynthRayError
from synth_ray.core.secrets import KeyRing
from synth_ray.rollout.contract import RolloutRequest, RolloutResponse, episode_spec, response

_STATUS = {"usage": 422, "not_found": 404, "conflict": 409, "busy": 503, "prerequisite": 503, "timeout": 504}
_SEED_LIMIT = 256


def create_app(host: TaskHost, keys: KeyRing) -> FastAPI:
    """The ASGI app of one task."""
    app = FastAPI(title=f"synth-ray task app {host.task.name}", version=__version__, docs_url=None, redoc_url=None)
    app.add_middleware(Guard, keys=keys)
    app.add_exception_handler(SynthRayError, _failed)

    @app.get("/")
    async def root() -> dict[str, str]:
        """Liveness, without a key."""
        return {"status": "ok", "service": host.task.name}

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Health, with a key."""
        return {"healthy": True, "auth": {"required": True}}

    @app.get("/info")
    async def info() -> dict[str, Any]:
        """Service, data set and limits."""
        return {"service": {"task": host.task.name, "version": __version__}, **host.info([])}

    @app.get("/task_info")
    async def task_info(seed: Annotated[list[int] | None, Query(max_length=_SEED_LIMIT)] = None) -> Any:
        """The task, or one object per seed."""
        infos = await host.seed_infos(seed or [])
        if not infos:
            return {"taskset": host.info([])}
        return infos[0] if len(infos) == 1 else infos

    @app.post("/rollout")
    async def rollout(body: RolloutRequest) -> RolloutResponse:
        """Plays one episode with a teacher of the task and answers when it has ended."""
        return response(await host.play(episode_spec(body, host.task.name)), body)

    return app


async def _failed(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, SynthRayError):
        raise error
    body = {"detail": {"error": {"code": error.kind, "message": error.message, "hint": error.hint}}}
    return JSONResponse(body, status_code=_STATUS.get(error.kind, 500))
