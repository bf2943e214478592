"""The HTTP client of remote policies: one POST, bounded in time, size and attempts, to a place that may be called.

No redirect is followed, no proxy is taken from the environment, no cookie is kept, nothing is decompressed. The key is
cut out of everything that comes back before anyone sees it: out of every decoded text, and of what is shown undecoded.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import httpcore2

from synth_ray.core.errors import EndpointRefused
from synth_ray.core.json_depth import too_deep
from synth_ray.core.origins import Target
from synth_ray.rollout.remote.network import ForbiddenAddress, PinnedNetwork, Resolve, resolve
from synth_ray.rollout.remote.redaction import redacted_json, shown
from synth_ray.rollout.remote.request import with_smaller_budget
from synth_ray.rollout.remote.retries import (
    REAL_TIME,
    RetryBudget,
    TryAgain,
    Waiter,
    parse_retry_after,
    retried,
)

_MAX_CONNECTIONS = 1024
_KEPT_CONNECTIONS = 64
_KEPT_S = 30.0
_CONNECT_TIMEOUT_S = 10.0
_TRANSIENT = frozenset({408, 409, 425, 429})
_HINTS = {
    401: "check the key {key_name} in the task app's env file, and give the same `deploy` command again",
    403: "check what the key {key_name} may do",
    404: "check the model's name and the URL's path",
}


@dataclass(frozen=True, slots=True)
class Completion:
    """What a 2xx answer held: a JSON object, or else the ``problem`` with it."""

    value: Mapping[str, Any] | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """``answer_bytes`` bounds one answer's body."""

    answer_bytes: int = 4 << 20
    budget: RetryBudget = field(default_factory=RetryBudget)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    text: str
    whole: bool
    retry_after: str | None


class ChatClient:
    """Posts chat completions. Belongs to one event loop; ``resolve`` and ``waiter`` are for tests."""

    def __init__(
        self, limits: ClientLimits | None = None, resolve: Resolve = resolve, waiter: Waiter = REAL_TIME
    ) -> None:
        self._limits = limits or ClientLimits()
        self._resolve, self._waiter = resolve, waiter
        self._pools: dict[bool, httpcore2.AsyncConnectionPool] = {}

    async def complete(self, target: Target, body: Mapping[str, Any], timeout_s: float, within_s: float) -> Completion:
        """The answer to ``body``; one attempt may take ``timeout_s``, all of them with their waits ``within_s``.

        Raises EndpointUnavailable when the retry budget is used up, EndpointRefused for what would fail again.
        """
        end = self._waiter.clock() + within_s
        try:
            return await self._retried(target, body, timeout_s, end)
        except EndpointRefused as refusal:
            smaller = with_smaller_budget(body, refusal.details.get("body"))
            if smaller is None:
                raise
        return await self._retried(target, smaller, timeout_s, end)

    async def aclose(self) -> None:
        """Closes all connections."""
        for pool in self._pools.values():
            await pool.aclose()

    async def _retried(self, target: Target, body: Mapping[str, Any], timeout_s: float, end: float) -> Completion:
        content = json.dumps(body, allow_nan=False).encode()

        async def attempt(left_s: float) -> Completion:
            return _judged(await self._post(target, content, min(timeout_s, left_s)), target)

        left_s = max(0.0, end - self._waiter.clock())
        budget = self._limits.budget
        budget = replace(budget, seconds=min(budget.seconds, left_s))
        return await retried(attempt, budget, target.place, self._waiter)

    async def _post(self, target: Target, content: bytes, timeout_s: float) -> _Answer:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._exchange(target, content)
        except (TimeoutError, httpcore2.TimeoutException):
            raise TryAgain(f"did not answer within {timeout_s:.0f} s") from None
        except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise EndpointRefused(
                    f"{target.place} has a TLS certificate that this machine does not trust"
                ) from None
            raise TryAgain(f"could not be reached ({type(error).__name__}: {shown(str(error))})") from None
        except ForbiddenAddress as error:
            raise EndpointRefused(f"{target.place} is not called: {error}") from None

    async def _exchange(self, target: Target, content: bytes) -> _Answer:
        url = target.url
        place = httpcore2.URL(
            scheme=url.scheme.encode(), host=url.host.encode(), port=url.port, target=url.target.encode()
        )
        headers: dict[str | bytes, str | bytes] = {
            "Host": url.origin.partition("://")[2],
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            **({"Authorization": f"Bearer {target.key}"} if target.key else {}),
        }
        timeout = {"connect": _CONNECT_TIMEOUT_S}
        pool = self._pool(target.private)
        async with pool.stream(
            "POST", place, headers=headers, content=content, extensions={"timeout": timeout}
        ) as response:
            given = {name.lower(): value.decode("latin-1") for name, value in response.headers}
            raw, whole = await _read(response, self._limits.answer_bytes)
        return _Answer(response.status, raw.decode("utf-8", "replace"), whole, given.get(b"retry-after"))

    def _pool(self, private: bool) -> httpcore2.AsyncConnectionPool:
        if private not in self._pools:
            self._pools[private] = httpcore2.AsyncConnectionPool(
                max_connections=_MAX_CONNECTIONS,
                max_keepalive_connections=_KEPT_CONNECTIONS,
                keepalive_expiry=_KEPT_S,
                network_backend=PinnedNetwork(private, self._resolve),
            )
        return self._pools[private]


async def _read(response: httpcore2.Response, limit: int) -> tuple[bytes, bool]:
    """The body, and whether that is all of it."""
    chunks, size = [], 0
    async for chunk in response.aiter_stream():
        chunks.append(chunk)
        size += len(chunk)
        if size > limit:
            return b"", False
    return b"".join(chunks), True


def _judged(answer: _Answer, target: Target) -> Completion:
    """A completion. Raises TryAgain for what may pass, EndpointRefused for what won't."""
    status = answer.status
    value = redacted_json(parse_json(answer.text), target.key)
    if 200 <= status < 300:
        return _completion(answer, value)
    asked_s = parse_retry_after(answer.retry_after, time.time())
    if status in _TRANSIENT or status >= 500:
        raise TryAgain(f"answered {status}{_said(answer.text, value, target.key)}", asked_s, status)
    if isinstance(value, Mapping) and value.get("status") == "overloaded":
        raise TryAgain("is overloaded", parse_retry_after(str(value.get("retry_after")), time.time()), status)
    raise _refusal(answer, value, target)


def _completion(answer: _Answer, value: Any) -> Completion:
    if not answer.whole:
        return Completion(None, "the endpoint's answer is too long")
    if not isinstance(value, Mapping):
        return Completion(None, "the endpoint's answer is not a JSON object")
    return Completion(value)


def _refusal(answer: _Answer, value: Any, target: Target) -> EndpointRefused:
    status = answer.status
    hint = _HINTS.get(status, "the request must change").format(key_name=target.key_name)
    if 300 <= status < 400:
        message, hint = (
            f"{target.place} answered with a redirect ({status})",
            "redirects are never followed: fix the URL",
        )
    elif status == 401:  # Whatever it says, it may be about the key.
        return EndpointRefused(f"{target.place} does not accept the key (401)", hint, status=status, body=None)
    else:
        message = f"{target.place} refused the request with {status}{_said(answer.text, value, target.key)}"
    return EndpointRefused(message, hint, status=status, body=value if isinstance(value, Mapping) else None)


def _said(text: str, value: Any, key: str) -> str:
    """ ": what the error body says", from the usual places in it."""
    for path in (("error", "message"), ("error",), ("detail", "error", "message"), ("detail",), ("message",)):
        found = value
        for name in path:
            found = found.get(name) if isinstance(found, Mapping) else None
        if isinstance(found, str) and found.strip():
            return f": {shown(found, key)}"
    return f": {shown(text, key)}" if text.strip() else ""


def parse_json(text: str) -> Any:
    """The JSON value, or None for anything else; NaN, infinities and more than 64 levels are no JSON."""
    if too_deep(text):
        return None
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except ValueError:
        return None


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)
