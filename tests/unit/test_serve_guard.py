"""The guard: what is refused before any route sees it, in which order, and that the rest passes unchanged."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.http_guard import Guard, HttpLimits
from synth_ray.core.json_depth import json_depth
from synth_ray.core.secrets import KeyRing

KEY = (b"x-api-key", b"right")


async def echo(scope: Any, receive: Any, send: Any) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def call(guard: Any, *chunks: bytes, method: str = "POST", path: str = "/rollout", **scope: Any) -> Any:
    """(status, headers, body) of one request that arrives in ``chunks``."""
    sent: list[Any] = []
    pending = list(chunks)

    async def receive() -> Any:
        chunk = pending.pop(0) if pending else b""
        return {"type": "http.request", "body": chunk, "more_body": bool(pending)}

    async def send(message: Any) -> None:
        sent.append(message)

    request = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b""}
    await guard(request | {"headers": [KEY]} | scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


def one(*chunks: bytes, limits: HttpLimits | None = None, **scope: Any) -> Any:
    return asyncio.run(call(Guard(echo, KeyRing(["right"]), limits), *chunks, **scope))


def test_what_is_within_the_limits_passes_unchanged() -> None:
    assert one(b'{"a":', b"[1]}")[::2] == (200, b'{"a":[1]}')
    headers = [KEY, *((f"x-{number}".encode(), b"v") for number in range(99))]
    assert one(b"{}", headers=headers)[0] == 200
    assert one(b"[" * 64 + b"]" * 64)[0] == 200


@pytest.mark.parametrize(
    ("status", "code", "scope"),
    [
        (431, "too_large", {"headers": [KEY, *((b"x", b"v"),) * 100]}),
        (431, "too_large", {"headers": [KEY, (b"x-long", b"v" * (16 << 10))]}),
        (414, "too_large", {"query_string": b"seed=1&" * 1200}),
        (414, "too_large", {"path": "/" + "a" * 9000}),
        (401, "unauthorised", {"headers": []}),
        (401, "unauthorised", {"headers": [(b"x-api-key", b"wrong")], "path": "/nothing"}),
        *((401, "unauthorised", {"headers": [], "path": "/", "method": name}) for name in ("POST", "PUT", "OPTIONS")),
        *((400, "bad_request", {"body": ('["\\"",' + "[" * 200).encode(name)}) for name in ("utf-16", "utf-32-be")),
        (422, "too_deep", {"body": b"[" * 65 + b"]" * 65}),
        (422, "too_deep", {"body": b'{"a":' * 200_000}),
        (413, "too_large", {"body": b"x" * ((1 << 20) + 1)}),
    ],
)
def test_refusals(status: int, code: str, scope: dict[str, Any]) -> None:
    answer = one(scope.pop("body", b"{}"), **scope)
    assert answer[0] == status
    assert json.loads(answer[2])["detail"]["error"]["code"] == code
    assert int(answer[1][b"content-length"]) == len(answer[2])


def test_liveness_needs_no_key() -> None:
    assert [one(method=method, path="/", headers=[])[0] for method in ("GET", "HEAD")] == [200, 200]


def test_a_body_that_drips_is_given_up() -> None:
    async def never() -> Any:
        await asyncio.sleep(60)

    async def test() -> int:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        guard = Guard(echo, KeyRing(["right"]), HttpLimits(body_timeout_s=0.02))
        scope = {"type": "http", "method": "POST", "path": "/rollout", "headers": [KEY]}
        await guard(scope, never, send)
        return int(sent[0]["status"])

    assert asyncio.run(asyncio.wait_for(test(), 5)) == 408


def test_at_most_so_many_rollouts_and_every_place_is_given_back() -> None:
    async def test() -> None:
        release = asyncio.Event()

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            if scope["path"] == "/bad":
                raise ValueError("a bug")
            await release.wait()
            await echo(scope, receive, send)

        guard = Guard(slow, KeyRing(["right"]), HttpLimits(at_a_time=3))
        for _ in range(4):
            with pytest.raises(ValueError, match="a bug"):
                await call(guard, path="/bad")
        running = [asyncio.ensure_future(call(guard)) for _ in range(3)]
        await asyncio.sleep(0.01)
        status, headers, body = await call(guard)
        assert (status, headers[b"retry-after"]) == (429, b"1")
        assert json.loads(body)["detail"]["error"]["code"] == "rate_limited"
        running.pop().cancel()
        await asyncio.sleep(0.01)
        running.append(asyncio.ensure_future(call(guard)))
        await asyncio.sleep(0.01)
        assert not running[-1].done()
        release.set()
        assert [status for status, _, _ in await asyncio.gather(*running)] == [200] * 3
        assert (await call(guard))[0] == 200

    asyncio.run(asyncio.wait_for(test(), 10))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='a"\\[]{}é\n') | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet='k"\\[{'), inner, max_size=4),
    max_leaves=10,
)


def depth(value: Any) -> int:
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return 1 + max((depth(one) for one in inner), default=0)
    return 0


@settings(deadline=None, max_examples=60)
@given(JSON, st.booleans(), st.sampled_from([None, 1]))
def test_depth_of_every_json_text(value: Any, ascii_only: bool, indent: int | None) -> None:
    assert json_depth(json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()) == depth(value)


@given(st.binary())
def test_depth_of_any_bytes_is_a_number(text: bytes) -> None:
    assert 0 <= json_depth(text) <= len(text)


@pytest.mark.parametrize("pattern", [b"[]", b'""', b'\\"', b'{"a":', b"\\\\", b"[[],", b"x", b'"[\\\\"'])
def test_depth_takes_linear_time_on_hostile_text(pattern: bytes) -> None:
    text = pattern * ((1 << 20) // len(pattern))
    started = time.process_time()
    json_depth(text)
    assert time.process_time() - started < 0.5
