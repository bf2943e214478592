"""A real local HTTP server that plays an OpenAI-compatible provider, well or badly, and keeps what it was sent."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOOL_CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "interact_many", "arguments": '{"actions": ["move_right", "do"]}'},
}


@dataclass(frozen=True)
class Sent:
    """One request as it arrived; header names are lower case."""

    path: str
    headers: Mapping[str, str]
    body: Any


@dataclass
class Play:
    """One answer: it may hang, drip byte by byte, or end too early."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False
    drip_s: float = 0.0
    cut_at: int | None = None


Answer = Play | Callable[[Sent], Play]


def as_json(value: Any, status: int = 200, **headers: str) -> Play:
    """An answer with a JSON body; underscores in header names stand for dashes."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Play(status, json.dumps(value).encode(), {"Content-Type": "application/json", **named})


def completion(message: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A chat completion; by default with one tool call."""
    said = message if message is not None else {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]}
    return {
        "id": "chatcmpl-1",
        "model": "fake-model-2026",
        "choices": [{"index": 0, "message": said, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
        **more,
    }


class FakeProvider:
    """Answers with ``plays`` in turn, then with ``default``."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.plays: list[Answer] = []
        self.default: Answer = as_json(completion())
        self.requests: list[Sent] = []
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def take(self, sent: Sent) -> Play:
        with self._lock:
            self.requests.append(sent)
            answer = self.plays.pop(0) if self.plays else self.default
        return answer(sent) if callable(answer) else answer

    def stop(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


@contextmanager
def fake_provider(tls: ssl.SSLContext | None = None) -> Iterator[FakeProvider]:
    server = FakeProvider(tls)
    try:
        yield server
    finally:
        server.stop()


def _handler(provider: FakeProvider) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length", 0)))
            sent = Sent(self.path, {name.lower(): value for name, value in self.headers.items()}, json.loads(raw))
            with suppress(ConnectionError, BrokenPipeError):
                self._answer(provider.take(sent))

        do_GET = do_POST

        def _answer(self, play: Play) -> None:
            if play.hang:
                provider.stopping.wait(10)
                self.close_connection = True
                return
            self.send_response(play.status)
            for name, value in play.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(play.body)))
            self.end_headers()
            body = play.body if play.cut_at is None else play.body[: play.cut_at]
            self.close_connection = play.cut_at is not None
            if not play.drip_s:
                self.wfile.write(body)
                return
            for byte in body:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                if provider.stopping.wait(play.drip_s):
                    return

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
