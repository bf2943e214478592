"""Scratch folders in memory: each carries its cluster's id, so that stopping it removes what killed processes left."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

CLUSTER_MARK = "SYNTH_RAY_CLUSTER"
"""The environment variable that tells a process to which local cluster it belongs."""
_MEMORY = Path("/dev/shm")  # noqa: S108 - private folders are made in it


def new_scratch() -> Path:
    """A fresh folder for this process, on tmpfs where there is one."""
    prefix = _prefix(os.environ.get(CLUSTER_MARK, ""))
    return Path(tempfile.mkdtemp(prefix=prefix, dir=_MEMORY if _MEMORY.is_dir() else None))


def remove_scratch(cluster_id: str) -> None:
    """Removes the folders of every process of a cluster that has stopped."""
    for folder in _MEMORY.glob(f"{_prefix(cluster_id)}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _prefix(cluster_id: str) -> str:
    return f"synth-ray-{cluster_id or 'adapters'}-"
