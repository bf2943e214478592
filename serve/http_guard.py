"""Guards of the task app's HTTP side: keys, sizes and crowding, before any route sees the request.

The order is that of cost: size of the head, key, free place, body, its encoding and depth. Without the right key every
path gets the same 401, whether it exists or not.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers

from serve.turnstile import Turnstile
from synth_ray.core.json_depth import MOST_LEVELS, json_depth
from synth_ray.core.secrets import KeyRing

_OPEN_PATHS = frozenset({"", "/"})
_OPEN_METHODS = frozenset({"GET", "HEAD"})


@dataclass(frozen=True)
class HttpLimits:
    """What one request may bring along, and how many may be worked on at a time; bounds are inclusive.

    ``target_bytes`` bounds path and query, ``headers_bytes`` names and values together. ``at_a_time`` counts requests
    with a body (rollouts), the open connections of callers that wait included.
    """

    target_bytes: int = 8 << 10
    headers: int = 100
    headers_bytes: int = 16 << 10
    body_bytes: int = 1 << 20
    body_timeout_s: float = 10.0
    json_depth: int = MOST_LEVELS
    at_a_time: int = 256
    retry_after_s: int = 1


class Refused(Exception):
    """The answer to a request that goes no further."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers or {}


class Guard:
    """ASGI middleware in front of the routes; requests with a body are handed on one per round of the event loop."""

    def __init__(
        self, app: Any, keys: KeyRing, limits: HttpLimits | None = None, turnstile: Turnstile | None = None
    ) -> None:
        self._app, self._keys = app, keys
        self._limits, self._turnstile = limits or HttpLimits(), turnstile or Turnstile()
        self._working = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check_head(scope)
            if scope["method"] in ("GET", "HEAD", "OPTIONS"):
                await self._app(scope, receive, send)
            else:
                await self._work(scope, receive, send)
        except Refused as refused:
            await _answer(send, refused)

    async def _work(self, scope: Any, receive: Any, send: Any) -> None:
        if self._working >= self._limits.at_a_time:
            retry = {"retry-after": str(self._limits.retry_after_s)}
            raise Refused(429, "rate_limited", f"{self._working} rollouts are being played; try again later", retry)
        self._working += 1
        try:
            body = await self._body(receive)
            await self._turnstile.enter()
            await self._app(scope, _replay(body, receive), send)
        finally:
            self._working -= 1

    def _check_head(self, scope: Any) -> None:
        limits, raw = self._limits, scope["headers"]
        if len(raw) > limits.headers or sum(len(name) + len(value) for name, value in raw) > limits.headers_bytes:
            raise Refused(
                431, "too_large", f"more than {limits.headers} headers or {limits.headers_bytes} bytes of them"
            )
        if len(scope.get("raw_path") or scope["path"]) + len(scope.get("query_string", b"")) > limits.target_bytes:
            raise Refused(414, "too_large", f"path and query are longer than {limits.target_bytes} bytes")
        if not _is_open(scope) and not self._keys.allows(given_keys(Headers(scope=scope))):
            raise Refused(401, "unauthorised", "API key missing or invalid", {"www-authenticate": "Bearer"})

    async def _body(self, receive: Any) -> bytes:
        limits = self._limits
        try:
            async with asyncio.timeout(limits.body_timeout_s):
                body = await _read_body(receive, limits.body_bytes)
        except TimeoutError:
            raise Refused(408, "timeout", f"the body did not arrive within {limits.body_timeout_s:g} s") from None
        # UTF-8 JSON has none, UTF-16 and UTF-32 always have: parsers read them too, but their depth is not known here.
        if b"\0" in body:
            raise Refused(400, "bad_request", "the body must be JSON in UTF-8, without NUL bytes")
        if json_depth(body) > limits.json_depth:
            raise Refused(422, "too_deep", f"the body nests deeper than {limits.json_depth} levels")
        return body


def _is_open(scope: Any) -> bool:
    """Whether the request needs no key: liveness, below the prefix that the app is mounted on."""
    path = str(scope["path"]).removeprefix(scope.get("root_path", ""))
    return path in _OPEN_PATHS and scope["method"] in _OPEN_METHODS


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


async def _read_body(receive: Any, limit_bytes: int) -> bytes:
    chunks, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        more = message.get("more_body", False)
        if size > limit_bytes:
            raise Refused(413, "too_large", f"the request body is larger than {limit_bytes} bytes")
    return b"".join(chunks)


def _replay(body: bytes, receive: Any) -> Any:
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Any:
        return pending.pop() if pending else await receive()

    return replayed


async def _answer(send: Any, refused: Refused) -> None:
    body = json.dumps({"detail": {"error": {"code": refused.code, "message": refused.message}}}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **refused.headers}
    if refused.status in (408, 413):
        headers["connection"] = "close"  # The rest of the body is not read.
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
