"""Calls to actors and deployments: our own errors come back as themselves, Ray's become PolicyError."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from synth_ray.core.errors import PolicyError, SynthRayError
from synth_ray.core.text import last_line


async def answered(response: Awaitable[Any]) -> Any:
    """Awaits a remote call; raises our own error if that is what the other side raised."""
    try:
        return await response
    except Exception as error:
        raise local_error(error) from None


def local_error(error: BaseException) -> SynthRayError:
    """The error of ours inside ``error``, else a PolicyError that says what Ray said."""
    cause = getattr(error, "cause", None)
    for candidate in (cause, error):
        if type(candidate).__module__.startswith("synth_ray.") and isinstance(candidate, SynthRayError):
            return candidate
    return PolicyError(f"{type(error).__name__}: {last_line(str(error), 'no message')}")
