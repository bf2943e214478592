"""Locks between processes of one machine: held for moments, and a wait that ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from synth_ray.core.errors import TemporaryError

_TIMEOUT_S = 120.0


@contextmanager
def one_at_a_time(lock_file: Path) -> Iterator[None]:
    """Holds ``lock_file``; TemporaryError if another process keeps it for two minutes."""
    lock_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=_TIMEOUT_S)
    except Timeout:
        raise TemporaryError(f"another process holds {lock_file}", "try again when it has finished") from None
    try:
        yield
    finally:
        lock.release()
