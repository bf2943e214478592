"""The task app's HTTP side: the routes of the contract behind one guard.

Every route but liveness needs a key; failures of authentication are all alike; every error has one shape.
"""

from __future__ import annotations

from fastapi import FastAPI

from serve.env_http import env_router
from serve.http_errors import add_error_handlers
from serve.http_guard import Guard
from serve.info_http import info_router
from serve.live_envs import LiveEnvs
from serve.openenv_http import openenv_router
from serve.proxy_http import proxy_router
from serve.rollout_http import rollout_router
from serve.rollout_store import RolloutStore
from serve.task_host import TaskHost
from serve.turnstile import Turnstile
from synth_ray import __version__
from synth_ray.core.secrets import KeyRing
from synth_ray.records.traces import TraceDB


def create_app(host: TaskHost, keys: KeyRing, traces: TraceDB | None = None) -> FastAPI:
    """The ASGI app of one task; rollouts that clients ask for are kept in ``traces``, if it is given."""
    app = FastAPI(title=f"synth-ray task app {host.task.name}", version=__version__, docs_url=None, redoc_url=None)
    turnstile = Turnstile()
    app.add_middleware(Guard, keys=keys, turnstile=turnstile)
    add_error_handlers(app)
    envs = LiveEnvs(host.task)
    rollouts = rollout_router(host, turnstile, RolloutStore(traces) if traces else None)
    for router in (info_router(host), rollouts, env_router(host, envs), openenv_router(host, envs)):
        app.include_router(router)
    app.include_router(proxy_router(host.chat, host.origins, host.task.tool_call))
    return app
