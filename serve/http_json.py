"""JSON that any client can read: plain ASCII, no NaN, whatever a model or a client has put into a text."""

from __future__ import annotations

import json
import math
from typing import Any

from starlette.responses import JSONResponse

# What is answered is made here or came as JSON, so it holds no circles.
_ENCODER = json.JSONEncoder(allow_nan=False, check_circular=False, separators=(",", ":"))


class AsciiJson(JSONResponse):
    """A JSON answer. Lone surrogates are escaped; numbers that JSON does not have become null."""

    def render(self, content: Any) -> bytes:
        """The body's bytes."""
        return json_bytes(content)


def json_bytes(content: Any) -> bytes:
    """``content`` as JSON."""
    try:
        return _ENCODER.encode(content).encode()
    except ValueError:
        return _ENCODER.encode(_finite(content)).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value
