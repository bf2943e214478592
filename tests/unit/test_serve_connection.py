"""Work for a client that may go away."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import pytest

from serve.connection import ClientGone, while_connected
from serve.task_host import TaskHost
from serve.task_http import create_app
from synth_ray.core.secrets import KeyRing
from synth_ray.core.types import EpisodeSpec, Message, Reply
from synth_ray.core.waiting import wait_for
from synth_ray.rollout.policy import Policy
from synth_ray.rollout.task import Episode
from tests.unit.live_app import live_app

KEY = "the-key-of-this-app-0123"


class Client:
    """A client that goes away when ``left`` is set; other messages may come before."""

    def __init__(self) -> None:
        self.left = asyncio.Event()
        self._more = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive(self) -> Mapping[str, Any]:
        if self._more:
            return self._more.pop()
        await self.left.wait()
        return {"type": "http.disconnect"}


async def work(ended: list[str]) -> str:
    try:
        await asyncio.sleep(0.05)
    finally:
        ended.append("cancelled" if asyncio.current_task().cancelling() else "done")  # type: ignore[union-attr]
    return "result"


def test_who_stays_gets_the_result_and_who_leaves_ends_the_work() -> None:
    async def test() -> None:
        ended: list[str] = []
        before = asyncio.all_tasks()
        assert await while_connected(work(ended), Client().receive) == "result"
        client = Client()
        asyncio.get_running_loop().call_later(0.01, client.left.set)
        with pytest.raises(ClientGone):
            await while_connected(work(ended), client.receive)
        handler = asyncio.ensure_future(while_connected(work(ended), Client().receive))
        await asyncio.sleep(0.01)
        handler.cancel()  # As Ray Serve does.
        with pytest.raises(asyncio.CancelledError):
            await handler
        await asyncio.sleep(0)
        assert ended == ["done", "cancelled", "cancelled"]
        assert asyncio.all_tasks() == before

    asyncio.run(asyncio.wait_for(test(), 10))


def test_errors_of_the_work_and_of_the_server_are_told() -> None:
    async def broken() -> Mapping[str, Any]:
        raise ValueError("broken")

    async def test() -> None:
        with pytest.raises(ValueError, match="broken"):
            await while_connected(asyncio.sleep(60), broken)
        with pytest.raises(ValueError, match="broken"):
            await while_connected(broken(), Client().receive)  # type: ignore[arg-type]

    asyncio.run(asyncio.wait_for(test(), 10))


class Never:
    """A model that takes its time."""

    async def reply(self, messages: Sequence[Message], turn: int, episode: Episode) -> Reply:
        await asyncio.sleep(60)
        raise AssertionError("nobody waits for that long")


class Host(TaskHost):
    """Counts the callers that wait for a rollout."""

    def __init__(self) -> None:
        super().__init__("grpo-crafter", None)
        self.waiting = 0

    async def play(self, spec: EpisodeSpec) -> Any:
        self.waiting += 1
        try:
            return await super().play(spec)
        finally:
            self.waiting -= 1

    def _policy(self, spec: EpisodeSpec) -> Policy:
        return Never()


def test_uvicorn_lets_a_rollout_go_when_its_client_goes_away() -> None:
    host = Host()
    policy = {"config": {"provider": "expert"}}
    body = json.dumps({"run_id": "a", "env": {"seed": 1}, "policy": policy, "ops": [], "mode": "eval"})
    head = f"POST /rollout HTTP/1.1\r\nHost: h\r\nX-API-Key: {KEY}\r\nContent-Type: application/json\r\n"
    with live_app(create_app(host, KeyRing([KEY]))) as origin:
        url = urlsplit(origin)
        with socket.create_connection((url.hostname, url.port)) as client:
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            assert wait_for("the rollout", lambda: host.waiting == 1 or None, timeout_s=30, interval_s=0.01)
        assert wait_for("its end", lambda: host.waiting == 0 or None, timeout_s=5, interval_s=0.01)
