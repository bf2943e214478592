"""Single files on disk: written whole or not at all. Knows nothing about what is in them."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from synth_ray.core.errors import StorageError

_STORAGE_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})
TEMPORARY_MARK = ".tmp-"


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns a full, read-only or failing disk into a StorageError (exit 74) that names ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno not in _STORAGE_ERRNOS:
            raise
        raise StorageError(
            f"cannot write {path}: {os.strerror(error.errno)}",
            "free some space or choose another folder, then resume; nothing half-written is visible",
            path=str(path),
        ) from error


def temporary_name(path: Path) -> Path:
    """A fresh sibling of ``path`` that readers ignore: ``<name>.tmp-<pid>-<random>``."""
    return path.with_name(f"{path.name}{TEMPORARY_MARK}{os.getpid()}-{secrets.token_hex(4)}")


def sync_path(path: Path) -> None:
    """Forces a file's bytes, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_synced(path: Path, data: bytes, mode: int) -> None:
    """Creates the new file ``path`` with ``data`` on the disk; raises FileExistsError if it exists."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_atomic(path: Path, data: bytes | str, mode: int = 0o644) -> None:
    """Replaces ``path`` by ``data`` (text as UTF-8) in one step: readers see the old content or all of the new.

    Raises StorageError when the disk is full or read-only; the old content is then still there.
    """
    raw = data.encode() if isinstance(data, str) else data
    temporary = temporary_name(path)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_synced(temporary, raw, mode)
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        sync_path(path.parent)
