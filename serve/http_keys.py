"""The three spellings of a key, as OpenAPI declares them. They are checked in the guard, before any route."""

from __future__ import annotations

from typing import Annotated

from fastapi import Security
from fastapi.security import APIKeyHeader, HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials

_ONE = APIKeyHeader(name="X-API-Key", scheme_name="key", auto_error=False, description="The key.")
_SEVERAL = APIKeyHeader(
    name="X-API-Keys", scheme_name="keys", auto_error=False, description="Several keys with commas; one must be right."
)
_BEARER = HTTPBearer(scheme_name="bearer", auto_error=False, description="The key as a bearer token.")


async def keyed(
    one: Annotated[str | None, Security(_ONE)],
    several: Annotated[str | None, Security(_SEVERAL)],
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)],
) -> None:
    """Declares that a route needs a key, in any one of the three headers."""
