"""Artefact folders that are either whole or invisible.

Invariants: a folder appears under its name by one rename, after all its bytes and its manifest are on the disk; the
manifest is written last and lists the SHA-256 and size of every file; readers ignore folders whose manifest does not
verify. Knows nothing about what the artefacts mean.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from synth_ray.core.errors import ConflictError, CorruptError
from synth_ray.core.hashing import canonical_json, sha256_file, sha256_text
from synth_ray.records.disk import TEMPORARY_MARK, storage_errors, sync_path, temporary_name, write_atomic, write_synced

__all__ = [
    "FileEntry",
    "Latest",
    "Manifest",
    "Rejected",
    "latest_valid",
    "publishing",
    "remove_leftovers",
    "verify",
    "write_atomic",
]

MANIFEST_NAME = "manifest.json"
MANIFEST_SCHEMA = "synth-ray/manifest/1"
DAMAGED_MARK = ".damaged-"
_LEFTOVER = re.compile(re.escape(TEMPORARY_MARK) + r"(\d+)-[0-9a-f]{8}$")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """What a manifest says of one file."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of a published folder (by POSIX path relative to it) and what the publisher said about them."""

    files: Mapping[str, FileEntry]
    meta: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 over files and meta: equal content gives equal digests."""
        return sha256_text(canonical_json(self._body()))

    def as_json(self) -> str:
        """The text of ``manifest.json``."""
        return canonical_json({"schema": MANIFEST_SCHEMA, **self._body(), "sha256": self.digest}) + "\n"

    def _body(self) -> dict[str, Any]:
        files = {name: {"size_bytes": entry.size_bytes, "sha256": entry.sha256} for name, entry in self.files.items()}
        return {"files": files, "meta": dict(self.meta)}


@dataclass(frozen=True, slots=True)
class Rejected:
    """A folder that matched but does not verify, and why."""

    folder: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Latest:
    """The newest valid folder, or None, and the newer ones that were passed over."""

    folder: Path | None
    manifest: Manifest | None
    rejected: tuple[Rejected, ...] = ()


@contextmanager
def publishing(target: Path, meta: Mapping[str, Any]) -> Iterator[Path]:
    """Gives a temporary folder to fill; on a clean exit it becomes ``target``, on an exception it is removed.

    Publishing equal content twice is a no-op. Raises ConflictError if ``target`` holds other valid content or was not
    published by us, StorageError if the disk is full. A damaged ``target`` is set aside as ``<name>.damaged-...``.
    """
    canonical_json(dict(meta))  # a meta that is not JSON must fail before the work, not after it
    temporary = temporary_name(target)
    try:
        with storage_errors(target):
            temporary.mkdir(parents=True)
            yield temporary
            manifest = _seal(temporary, meta)
            _appear(temporary, target, manifest)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def verify(folder: Path) -> Manifest:
    """The manifest of ``folder`` if every file matches it, else a CorruptError that names the first bad file.

    Files that the manifest does not list are ignored.
    """
    manifest = _read_manifest(folder / MANIFEST_NAME)
    for name, entry in manifest.files.items():
        _check_file(folder / name, entry)
    return manifest


def latest_valid(parent: Path, pattern: str) -> Latest:
    """The newest valid folder in ``parent`` that matches the glob ``pattern``.

    Newest means the highest name with digits compared as numbers: names carry the step, and clocks can jump.
    """
    rejected: list[Rejected] = []
    for folder in sorted(_candidates(parent, pattern), key=_natural_key, reverse=True):
        try:
            return Latest(folder, verify(folder), tuple(rejected))
        except CorruptError as error:
            rejected.append(Rejected(folder, error.message))
    return Latest(None, None, tuple(rejected))


def remove_leftovers(parent: Path, older_than_s: float = 3600.0) -> tuple[Path, ...]:
    """Removes temporary files and folders in ``parent`` whose process is gone; returns what was removed.

    The age protects writers on other hosts of a shared disk, whose process ids mean nothing here.
    """
    removed = []
    for path in sorted(parent.glob(f"*{TEMPORARY_MARK}*")):
        match = _LEFTOVER.search(path.name)
        with suppress(FileNotFoundError):  # its process may finish while we look
            if match and time.time() - path.stat().st_mtime >= older_than_s and not _alive(int(match[1])):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                removed.append(path)
    return tuple(removed)


def _seal(folder: Path, meta: Mapping[str, Any]) -> Manifest:
    paths = sorted(folder.rglob("*"))
    files = {}
    for path in paths:
        if path.is_file():
            sync_path(path)
            name = path.relative_to(folder).as_posix()
            files[name] = FileEntry(path.stat().st_size, sha256_file(path))
    manifest = Manifest(files, dict(meta))
    write_synced(folder / MANIFEST_NAME, manifest.as_json().encode(), 0o644)
    for path in (*filter(Path.is_dir, paths), folder):
        sync_path(path)
    return manifest


def _appear(temporary: Path, target: Path, manifest: Manifest) -> None:
    if (target / MANIFEST_NAME).exists() and _is_published(target, manifest):
        return
    try:
        temporary.rename(target)  # succeeds only if target is missing or an empty folder
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        if not _is_published(target, manifest):
            raise _conflict(target) from error
    sync_path(target.parent)


def _is_published(target: Path, manifest: Manifest) -> bool:
    """Whether ``target`` already holds this content; sets a damaged one aside; refuses other valid content."""
    try:
        existing = verify(target)
    except CorruptError:
        if not (target / MANIFEST_NAME).exists():
            raise _conflict(target) from None
        target.rename(target.with_name(temporary_name(target).name.replace(TEMPORARY_MARK, DAMAGED_MARK)))
        return False
    if existing.digest != manifest.digest:
        raise _conflict(target)
    return True


def _conflict(target: Path) -> ConflictError:
    return ConflictError(
        f"{target} already exists with other content", "choose another name, or move the existing folder away"
    )


def _read_manifest(path: Path) -> Manifest:
    try:
        raw = json.loads(path.read_bytes())
        files = {
            name: FileEntry(int(entry["size_bytes"]), str(entry["sha256"])) for name, entry in raw["files"].items()
        }
        manifest = Manifest(files, dict(raw["meta"]))
        intact = raw["schema"] == MANIFEST_SCHEMA and raw["sha256"] == manifest.digest
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(f"{path} is missing or unreadable", _HINT, path=str(path)) from error
    if not intact or any(_leaves_folder(name) for name in files):
        raise CorruptError(f"{path} does not verify", _HINT, path=str(path))
    return manifest


def _leaves_folder(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts


def _check_file(path: Path, entry: FileEntry) -> None:
    if not path.is_file():
        raise CorruptError(f"{path} is missing", _HINT, path=str(path))
    size_bytes = path.stat().st_size
    if size_bytes != entry.size_bytes:
        raise CorruptError(f"{path} has {size_bytes} bytes instead of {entry.size_bytes}", _HINT, path=str(path))
    if sha256_file(path) != entry.sha256:
        raise CorruptError(f"{path} does not match its SHA-256", _HINT, path=str(path))


def _candidates(parent: Path, pattern: str) -> list[Path]:
    marks = (TEMPORARY_MARK, DAMAGED_MARK)
    return [path for path in parent.glob(pattern) if path.is_dir() and not any(mark in path.name for mark in marks)]


def _natural_key(path: Path) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", path.name)
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


_HINT = "use an older copy, or create it again; the damaged one is left in place"
