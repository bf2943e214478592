"""The vendor proxies: who gets which key, what vendors refuse, and tool calls made from text."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from envs.crafter.task import CrafterTask
from serve.http_guard import Guard
from serve.proxy_http import proxy_router
from synth_ray.core.origins import InferenceOrigins, Vendor
from synth_ray.core.secrets import KeyRing
from synth_ray.rollout.remote.client import ChatClient, ClientLimits
from synth_ray.rollout.remote.retries import RetryBudget, Waiter
from tests.unit.fake_provider import TOOL_CALL, FakeProvider, Play, as_json, completion, fake_provider

OPENAI, GROQ = "/proxy/v1/chat/completions", "/proxy/groq/v1/chat/completions"
KEYS = {"openai": "sk-proj-0123456789abcdef", "groq": "gsk_0123456789abcdef"}
APP_KEY = "the-key-of-the-task-app"
BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def server() -> Iterator[FakeProvider]:
    with fake_provider() as one:
        yield one


async def _no_wait(seconds: float) -> None:
    await asyncio.sleep(0)


def post(server: FakeProvider, path: str, body: Any, keys: dict[str, str] | None = None) -> tuple[int, Any]:
    """Status and JSON of one request through the guarded app; both vendors are ``server``."""
    groq = server.origin.replace("127.0.0.1", "localhost")
    vendors = {"openai": Vendor(f"{server.origin}/v1", "O"), "groq": Vendor(f"{groq}/openai/v1", "G")}
    origins = InferenceOrigins([server.origin, groq], {}, KEYS if keys is None else keys, vendors)

    async def main() -> tuple[int, Any]:
        chat = ChatClient(ClientLimits(budget=RetryBudget(attempts=2)), waiter=Waiter(sleep=_no_wait))
        app = FastAPI()
        app.add_middleware(Guard, keys=KeyRing([APP_KEY]))
        app.include_router(proxy_router(chat, origins, CrafterTask().tool_call))
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://app") as client:
            response = await client.post(path, content=content, headers={"X-API-Key": APP_KEY})
        await chat.aclose()
        return response.status_code, response.json()

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("path", "called", "key"),
    [(OPENAI, "/v1/chat/completions", "openai"), (GROQ, "/openai/v1/chat/completions", "groq")],
)
def test_a_request_goes_to_its_vendor_with_its_key(server: FakeProvider, path: str, called: str, key: str) -> None:
    status, answer = post(server, path, {**BODY, "temperature": 0.5, "thinking_mode": "think", "reasoning": {}})
    assert (status, answer) == (200, completion())
    (sent,) = server.requests
    assert sent.path == called
    assert sent.headers["authorization"] == f"Bearer {KEYS[key]}"
    assert APP_KEY not in str(sent)
    assert sent.body == {**BODY, "temperature": 0.5}


def test_gpt_5_gets_room_to_think_and_one_tool(server: FakeProvider) -> None:
    tools = CrafterTask().tools({})
    post(
        server, OPENAI, {**BODY, "model": "gpt-5-mini", "max_tokens": 512, "temperature": 1, "top_p": 1, "tools": tools}
    )
    sent = server.requests[0].body
    assert sent["max_completion_tokens"] == 16_000
    assert sent["tool_choice"]["function"]["name"] == "interact_many"
    assert sent["parallel_tool_calls"] is False
    assert not {"max_tokens", "temperature", "top_p"} & set(sent)


def test_a_text_becomes_a_tool_call(server: FakeProvider) -> None:
    server.default = as_json(completion({"content": 'I go. {"actions": ["left", "do"]}'}))
    choice = post(server, OPENAI, BODY)[1]["choices"][0]
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "interact_many", "arguments": '{"actions":["move_left","do"]}'}
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"].startswith("I go.")


@pytest.mark.parametrize(
    "message",
    [{"content": "I don't know"}, {"content": None}, {"content": "{}", "tool_calls": [TOOL_CALL]}, {"content": 3}],
)
def test_other_messages_stay_as_they_are(server: FakeProvider, message: dict[str, Any]) -> None:
    server.default = as_json(completion(message))
    assert post(server, OPENAI, BODY) == (200, completion(message))


@pytest.mark.parametrize("answer", [{}, {"choices": []}, {"choices": [None]}, {"choices": "x"}])
def test_odd_answers_are_passed_on(server: FakeProvider, answer: dict[str, Any]) -> None:
    server.default = as_json(answer)
    assert post(server, OPENAI, BODY) == (200, answer)


@pytest.mark.parametrize(("levels", "fits"), [(64, True), (65, False), (900, False), (940, False), (960, False)])
def test_a_completion_that_nests_too_deeply_is_a_bad_gateway(server: FakeProvider, levels: int, fits: bool) -> None:
    deep = b'{"x": ' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"
    server.default = Play(200, deep)
    code, answer = post(server, OPENAI, BODY)
    assert code == (200 if fits else 502)
    assert fits or answer["detail"]["error"]["code"] == "openai_error"
    server.default = Play(400, deep)
    code, answer = post(server, OPENAI, BODY)
    assert (code, answer["detail"]["error"]["body"] is not None) == (400, fits)


def test_half_a_character_is_passed_on(server: FakeProvider) -> None:
    server.default = as_json(completion({"content": "a \ud83d"}))
    assert post(server, OPENAI, BODY) == (200, completion({"content": "a \ud83d"}))
    server.default = as_json({"error": "a \ud83d"}, 400)
    code, answer = post(server, OPENAI, BODY)
    assert (code, answer["detail"]["error"]["body"]) == (400, {"error": "a \ud83d"})


@pytest.mark.parametrize(("path", "vendor"), [(OPENAI, "openai"), (GROQ, "groq")])
@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 429, 500, 503])
def test_a_vendors_refusal_keeps_its_status(server: FakeProvider, path: str, vendor: str, status: int) -> None:
    said = {"error": {"message": f"no, {KEYS[vendor]}"}}
    server.default = as_json(said, status)
    code, answer = post(server, path, BODY)
    error = answer["detail"]["error"]
    assert (code, error["code"], error["status"]) == (status, f"{vendor}_error", status)
    assert KEYS[vendor] not in json.dumps(answer)
    assert error["body"] == ({"error": {"message": "no, [redacted]"}} if status in (400, 403, 404, 422) else None)


@pytest.mark.parametrize("play", [Play(200, b"<html>"), Play(302, headers={"Location": "http://h/"}), Play(200, b"[]")])
def test_a_vendor_that_makes_no_sense_is_a_bad_gateway(server: FakeProvider, play: Play) -> None:
    server.default = play
    code, answer = post(server, OPENAI, BODY)
    assert code == 502
    assert answer["detail"]["error"]["code"] == "openai_error"


@pytest.mark.parametrize(("path", "vendor"), [(OPENAI, "openai"), (GROQ, "groq")])
def test_a_missing_key_has_its_own_code(server: FakeProvider, path: str, vendor: str) -> None:
    code, answer = post(server, path, BODY, keys={})
    assert (code, answer["detail"]["error"]["code"]) == (503, f"missing_{vendor}_api_key")
    assert server.requests == []


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", [], {}, {"messages": []}, {"model": "m", "messages": "x"}, {**BODY, "stream": True}]
)
def test_a_wrong_request_is_not_passed_on(server: FakeProvider, body: Any) -> None:
    code, answer = post(server, OPENAI, body)
    assert (code, answer["detail"]["error"]["code"]) == (422, "invalid_request")
    assert server.requests == []
