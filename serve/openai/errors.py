"""OpenAI's error shape: ``{"error": {"message", "type", "param", "code"}}``.

The routes and the guard fail in the one shape of this program, ``{"detail": {"error": ...}}``; for paths below ``/v1``
a wrapper around everything rewrites it, so that no way to fail is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping
from typing import Any

from fastapi import FastAPI, Request

from serve.http_errors import error_answer
from serve.http_json import AsciiJson, json_bytes
from synth_ray.core.errors import ConfigError, NotFoundError

PREFIX = "/v1/"
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_LONGEST = 1 << 20


class BadRequest(ConfigError):
    """A request that is wrong in the field ``param``."""

    def __init__(self, message: str, param: str | None = None, code: str = "invalid_value", hint: str = "") -> None:
        super().__init__(message, hint)
        self.param, self.code = param, code

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.param, self.code, self.hint)


class ModelNotFound(NotFoundError):
    """No model has this name."""

    def __init__(self, name: str, hint: str) -> None:
        super().__init__(f"the model {name!r} does not exist", hint)
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.hint)


def add_openai_handlers(app: FastAPI) -> None:
    """Keeps the field and the code of an error that has them."""
    app.add_exception_handler(BadRequest, _bad_request)
    app.add_exception_handler(ModelNotFound, _no_model)


async def _bad_request(request: Request, error: Exception) -> AsciiJson:
    if not isinstance(error, BadRequest):
        raise error
    return error_answer(422, {"code": error.code, "message": error.message, "hint": error.hint, "param": error.param})


async def _no_model(request: Request, error: Exception) -> AsciiJson:
    if not isinstance(error, ModelNotFound):
        raise error
    return error_answer(
        404, {"code": "model_not_found", "message": error.message, "hint": error.hint, "param": "model"}
    )


def openai_error(status: int, body: Any) -> tuple[int, dict[str, Any]]:
    """Status and body in OpenAI's shape, for an answer in ours."""
    detail = body.get("detail") if isinstance(body, Mapping) else None
    error = detail.get("error") if isinstance(detail, Mapping) else None
    given: Mapping[str, Any] = error if isinstance(error, Mapping) else {}
    message = str(given.get("message") or detail or "the request failed")
    hint = given.get("hint")
    code = 400 if status == 422 else status
    kind = _TYPES.get(code, "server_error" if code >= 500 else "invalid_request_error")
    told = f"{message}; {hint}" if hint else message
    return code, {"error": {"message": told, "type": kind, "param": given.get("param"), "code": given.get("code")}}


class OpenAIErrors:
    """ASGI middleware, outermost: rewrites error answers below ``/v1``."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request (ASGI)."""
        path = str(scope.get("path", "")).removeprefix(scope.get("root_path", ""))
        if scope["type"] != "http" or not path.startswith(PREFIX):
            await self._app(scope, receive, send)
            return
        await self._app(scope, receive, _Rewriting(send))


class _Rewriting:
    """Holds an error answer back until it is complete; everything else passes as it comes."""

    def __init__(self, send: Any) -> None:
        self._send = send
        self._start: MutableMapping[str, Any] | None = None
        self._body = b""

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            self._start = message
        elif self._start is None:
            await self._send(message)
        else:
            self._body += message.get("body", b"")[:_LONGEST]
            if not message.get("more_body", False):
                await self._finish(self._start)

    async def _finish(self, start: MutableMapping[str, Any]) -> None:
        status, answer = openai_error(start["status"], _parsed(self._body))
        body = json_bytes(answer)
        dropped = (b"content-length", b"content-type")
        kept = [(name, value) for name, value in start["headers"] if name.lower() not in dropped]
        headers = [*kept, (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
