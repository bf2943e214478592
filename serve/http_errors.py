"""Every error in one shape, ``{"detail": {"error": {"code", "message", "hint"}}}``, with its status."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from serve.http_json import AsciiJson
from synth_ray.core.errors import SynthRayError, TemporaryError

log = logging.getLogger("ray.serve")

STATUS = {
    "usage": 422,
    "not_found": 404,
    "conflict": 409,
    "auth": 502,
    "rate_limited": 429,
    "busy": 503,
    "prerequisite": 503,
    "http_error": 502,
    "timeout": 504,
}
"""Status by kind of error; every other kind is 500."""

_CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 415: "unsupported_media_type"}
_MEANINGS = {
    400: "The body can not be read: it is not UTF-8, or holds a number of thousands of digits.",
    401: "No key, or a wrong one; the answer is the same for every reason.",
    404: "There is no such thing.",
    408: "The body did not arrive in time.",
    409: "The id stands for another request.",
    413: "The body is too large.",
    414: "Path and query are too long.",
    422: "The request is not valid; ``errors`` lists what is wrong with its fields.",
    429: "Too much at a time; try again later.",
    431: "Too many headers.",
    500: "A mistake of this server.",
    502: "The model endpoint could not be used, so nothing was played.",
    503: "Something that is needed is not there yet.",
    504: "It took too long.",
}
_EVERYWHERE = (401, 414, 422, 431, 500)
_WITH_BODY = (400, 408, 413, 429)


class FieldError(BaseModel):
    """What is wrong with one field."""

    loc: list[str | int]
    msg: str
    type: str


class ErrorInfo(BaseModel):
    """``code`` is for programs, ``message`` says what happened, ``hint`` what to do next."""

    code: str
    message: str
    hint: str = ""
    errors: list[FieldError] | None = None


class ErrorDetail(BaseModel):
    """The error, where FastAPI's clients look for it."""

    error: ErrorInfo


class ErrorBody(BaseModel):
    """Body of every answer that is not 2xx."""

    detail: ErrorDetail


class TooManyError(TemporaryError):
    """A bound on concurrent things is reached."""

    kind = "rate_limited"


def responses(*statuses: int, body: bool = False) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's declarations of the error answers of a route, those that every route has included."""
    every = sorted({*_EVERYWHERE, *(_WITH_BODY if body else ()), *statuses})
    return {status: {"model": ErrorBody, "description": _MEANINGS[status]} for status in every}


def error_answer(status: int, error: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> AsciiJson:
    """An answer in the one shape."""
    return AsciiJson({"detail": {"error": {"hint": "", **error}}}, status_code=status, headers=dict(headers or {}))


def add_error_handlers(app: FastAPI) -> None:
    """Every way to fail ends in the one shape."""
    app.add_exception_handler(SynthRayError, _expected)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


async def _expected(request: Request, error: Exception) -> AsciiJson:
    if not isinstance(error, SynthRayError):
        raise error
    status = STATUS.get(error.kind, 500)
    headers = {"retry-after": "1"} if status in (429, 503) else {}
    return error_answer(status, {"code": error.kind, "message": error.message, "hint": error.hint}, headers)


async def _invalid(request: Request, error: Exception) -> AsciiJson:
    if not isinstance(error, RequestValidationError):
        raise error
    found = [{"loc": list(one["loc"]), "msg": one["msg"], "type": one["type"]} for one in error.errors()]
    return error_answer(422, {"code": "invalid_request", "message": _told(found), "errors": found})


def _told(found: Sequence[Mapping[str, Any]]) -> str:
    first = found[0]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}{more}"


async def _http(request: Request, error: Exception) -> AsciiJson:
    if not isinstance(error, HTTPException):
        raise error
    message = f"{request.method} is not for this path" if error.status_code == 405 else str(error.detail)
    code = _CODES.get(error.status_code, "error")
    return error_answer(error.status_code, {"code": code, "message": message}, error.headers)


async def _unexpected(request: Request, error: Exception) -> AsciiJson:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return error_answer(500, {"code": "internal", "message": "this server made a mistake; its log says which"})
