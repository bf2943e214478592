"""The error tree: every failure a user can meet has a kind, a hint and an exit code."""

from __future__ import annotations

from typing import Any, ClassVar


class SynthRayError(Exception):
    """Base of all expected failures.

    ``message`` says what happened, ``hint`` what to do next; ``kind`` and ``exit_code`` are what programs read.
    """

    kind: ClassVar[str] = "internal"
    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, hint: str = "", **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.hint, self.details)

    def as_dict(self) -> dict[str, Any]:
        """The JSON shape that ``--json`` prints."""
        return {
            "kind": self.kind,
            "message": self.message,
            "hint": self.hint,
            "retryable": self.retryable,
            "details": self.details,
        }


def _rebuild(cls: type[SynthRayError], message: str, hint: str, details: dict[str, Any]) -> SynthRayError:
    return cls(message, hint, **details)


class JobFailed(SynthRayError):
    """A job or evaluation ran and failed."""

    exit_code = 1


class ConfigError(SynthRayError):
    """A configuration value or command-line argument is wrong."""

    kind = "usage"
    exit_code = 2


class PrerequisiteError(SynthRayError):
    """Something that must exist first is missing: cluster, key, port, GPU."""

    kind = "prerequisite"
    exit_code = 3


class NotFoundError(SynthRayError):
    """A named run, model, file or seed does not exist."""

    kind = "not_found"
    exit_code = 4


class ConflictError(SynthRayError):
    """The name is in use with other content, or the thing already runs."""

    kind = "conflict"
    exit_code = 5


class AuthError(SynthRayError):
    """Authentication was refused."""

    kind = "auth"
    exit_code = 6


class CorruptError(SynthRayError):
    """Data on disk does not verify, or was written by an incompatible version."""

    kind = "corrupt"
    exit_code = 7


class StorageError(SynthRayError):
    """The local disk, or a path on it, can't be used: full, read-only, no such folder, no right."""

    kind = "storage_full"
    exit_code = 74
    retryable = True

    @classmethod
    def of(cls, error: OSError) -> StorageError:
        """What the system's own error says."""
        where = f" {error.filename}" if error.filename else ""
        return cls(f"cannot use{where}: {error.strerror or error}", "check path and rights")


class TemporaryError(SynthRayError):
    """Try again later: an endpoint is unavailable, the cluster is starting, a lock is held."""

    kind = "busy"
    exit_code = 75
    retryable = True


class DeadlineError(SynthRayError):
    """A named wait passed its deadline."""

    kind = "timeout"
    exit_code = 124
    retryable = True


class PolicyError(SynthRayError):
    """A policy could not answer: the engine or a provider failed."""

    kind = "http_error"
    retryable = True


class AdapterMissing(PolicyError):
    """The adapter that a request names is not in the adapter store."""

    kind = "not_found"


class EndpointUnavailable(PolicyError):
    """A remote endpoint did not give an answer within the retry budget; ``details["status"]`` is its last status."""


class EndpointRefused(PolicyError):
    """A remote endpoint refuses this request, and would again; ``details`` hold its status and what it said."""

    retryable = False


class WrongWeights(SynthRayError):
    """Weights or a turn carry a digest that nobody published under that name."""

    kind = "corrupt"
    exit_code = 7
