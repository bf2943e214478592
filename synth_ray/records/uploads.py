"""Uploaded files: copies in the state folder under their SHA-256: equal bytes are kept once and never change."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from synth_ray.core.errors import ConfigError, CorruptError, NotFoundError
from synth_ray.core.hashing import sha256_file
from synth_ray.core.paths import Home, private_dir
from synth_ray.records.disk import storage_errors, sync_path, temporary_name
from synth_ray.records.registry import Registry, StoredFile
from synth_ray.records.sft_data import read_sft

PURPOSES = ("fine-tune", "validation", "other")
_FILE_ID = re.compile(r"^file-[0-9a-f]{24}$")


def is_file_id(text: str) -> bool:
    """Whether ``text`` names an upload."""
    return bool(_FILE_ID.match(text))


def upload(home: Home, path: Path, purpose: str = "fine-tune") -> StoredFile:
    """Copies ``path`` into the store; the same bytes again are the same file.

    Fine-tuning data are checked first. Raises NotFoundError, ConfigError, StorageError, CorruptError with the bad line.
    """
    if not path.exists():
        raise NotFoundError(f"there is no file {path}", "check the path", path=str(path))
    if not path.is_file():
        raise ConfigError(f"{path} is not a file", "give the path of one file")
    if purpose != "other":
        read_sft(path)
    copy = _copied(path, home.files)
    digest = sha256_file(copy)
    target = home.files / digest
    with storage_errors(target):
        copy.replace(target)
        sync_path(home.files)
    with Registry(home.state_db) as registry:
        return registry.add_file(path.name, purpose, target.stat().st_size, digest)


def stored(home: Home, file_id: str) -> tuple[StoredFile, Path]:
    """An upload and where its bytes are. Raises NotFoundError, or CorruptError if they are not what was uploaded."""
    if not home.state_db.exists():
        raise NotFoundError(f"there is no file {file_id!r}", "upload it with: synth-ray files upload FILE")
    with Registry(home.state_db, read_only=True) as registry:
        file = registry.file(file_id)
    path = home.files / file.sha256
    if not path.exists() or sha256_file(path) != file.sha256:
        raise CorruptError(f"the copy of {file_id} in {path} is missing or changed", "upload it again", path=str(path))
    return file, path


def _copied(path: Path, folder: Path) -> Path:
    temporary = temporary_name(private_dir(folder) / "upload")
    try:
        with storage_errors(temporary), path.open("rb") as source:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as target:
                shutil.copyfileobj(source, target)
                target.flush()
                os.fsync(target.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary
