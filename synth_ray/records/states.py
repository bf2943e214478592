"""The states of jobs and runs, and which may follow which."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from synth_ray.core.errors import ConflictError


class State(StrEnum):
    """Where a job or run stands. The last three are final."""

    CREATED = "CREATED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    RECOVERING = "RECOVERING"
    PAUSED_DISK = "PAUSED_DISK"
    PAUSED_ENDPOINT = "PAUSED_ENDPOINT"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def final(self) -> bool:
        """Whether nothing can follow."""
        return self in _ENDS


_ENDS = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})
_STOPPED = frozenset({State.FAILED, State.CANCELLED})
_PAUSES = frozenset({State.PAUSED_DISK, State.PAUSED_ENDPOINT})

NEXT: Mapping[State, frozenset[State]] = {
    State.CREATED: frozenset({State.STARTING, State.RUNNING}) | _STOPPED,
    State.STARTING: frozenset({State.RUNNING, State.RECOVERING}) | _ENDS,
    State.RUNNING: frozenset({State.RECOVERING}) | _PAUSES | _ENDS,
    State.RECOVERING: frozenset({State.RUNNING}) | _PAUSES | _ENDS,
    State.PAUSED_DISK: frozenset({State.RUNNING, State.RECOVERING}) | _STOPPED,
    State.PAUSED_ENDPOINT: frozenset({State.RUNNING, State.RECOVERING}) | _STOPPED,
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}


def check_transition(subject: str, old: State, new: State) -> None:
    """Raises ConflictError unless ``new`` may follow ``old``; repeating a state is always allowed."""
    if new is not old and new not in NEXT[old]:
        legal = ", ".join(sorted(NEXT[old])) or "nothing"
        raise ConflictError(f"{subject} is {old} and cannot become {new}", f"after {old} may come: {legal}")
