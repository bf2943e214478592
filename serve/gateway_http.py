"""The gateway's HTTP side: `/v1` for models, `/api` for jobs; one key for both."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from fastapi import FastAPI

from serve.backend.http import backend_router
from serve.backend.service import Backend
from serve.chat_http import chat_router
from serve.gateway import Gateway
from serve.http_errors import add_error_handlers
from serve.http_guard import Guard, HttpLimits
from serve.openai.errors import OpenAIErrors, add_openai_handlers
from synth_ray import __version__
from synth_ray.core.secrets import KeyRing

UPLOAD_LIMITS = HttpLimits(body_bytes=128 << 20, body_timeout_s=120.0, json_depth=1 << 30, at_a_time=4)
_UPLOADS = ("/api/files", "/api/v1/files")


def create_app(gateway: Gateway, backend: Backend, keys: KeyRing) -> FastAPI:
    """The ASGI app."""
    app = FastAPI(title="synth-ray gateway", version=__version__, docs_url=None, redoc_url=None)
    add_error_handlers(app)
    add_openai_handlers(app)
    app.add_middleware(_Guards, keys=keys)
    app.add_middleware(OpenAIErrors)

    @app.get("/")
    async def root() -> dict[str, str]:
        """Liveness, without a key."""
        return {"status": "ok", "service": "gateway"}

    app.include_router(chat_router(gateway))
    app.include_router(backend_router(backend))
    return app


class _Guards:
    """ASGI middleware: uploads may be large and few, everything else is small."""

    def __init__(self, app: Any, keys: KeyRing) -> None:
        self._uploads, self._others = Guard(app, keys, UPLOAD_LIMITS), Guard(app, keys)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        path = str(scope.get("path", "")).removeprefix(scope.get("root_path", ""))
        guard = self._uploads if path in _UPLOADS else self._others
        await guard(scope, receive, send)
