"""Guards of the task app's HTTP side: keys and body size, before any route sees the request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers

from synth_ray.core.secrets import KeyRing

OPEN_PATHS = frozenset({"", "/"})
BODY_LIMIT_BYTES = 1 << 20


class Guard:
    """ASGI middleware: 401 without the right key, alike for every reason; 413 for a body above the limit."""

    def __init__(self, app: Any, keys: KeyRing) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if _path(scope) not in OPEN_PATHS and not self._keys.allows(given_keys(headers)):
            await _answer(send, 401, "unauthorised", "API key missing or invalid", {"www-authenticate": "Bearer"})
            return
        body = await _read_body(receive)
        if body is None:
            await _answer(send, 413, "too_large", f"the request body is larger than {BODY_LIMIT_BYTES} bytes")
            return
        await self._app(scope, _replay(body, receive), send)


def _path(scope: Any) -> str:
    """The path below the prefix that the app is mounted on."""
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


def given_keys(headers: Headers) -> list[str]:
    """Every key that a request carries, in any of the three spellings; none if the two that hold one key differ."""
    single = [key.strip() for key in headers.getlist("x-api-key")]
    for authorization in headers.getlist("authorization"):
        scheme, _, token = authorization.partition(" ")
        single.append((token if scheme.lower() == "bearer" else authorization).strip())
    listed = [key.strip() for joined in headers.getlist("x-api-keys") for key in joined.split(",")]
    if len({key for key in single if key}) > 1:
        return []
    return [key for key in [*single, *listed] if key]


async def _read_body(receive: Any) -> bytes | None:
    chunks, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        more = message.get("more_body", False)
        if size > BODY_LIMIT_BYTES:
            return None
    return b"".join(chunks)


def _replay(body: bytes, receive: Any) -> Any:
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Any:
        return pending.pop() if pending else await receive()

    return replayed


async def _answer(send: Any, status: int, code: str, message: str, extra: Mapping[str, str] | None = None) -> None:
    body = json.dumps({"detail": {"error": {"code": code, "message": message}}}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **(extra or {})}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
