"""Checkpoints of an RL run: adapter and optimizer, published as one verified folder per step."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synth_ray.core.errors import CorruptError
from synth_ray.core.hashing import sha256_bytes
from synth_ray.learn.adapter_files import read_adapter, write_adapter
from synth_ray.records.publish import latest_valid, publishing

KEEP = 2
_OPTIMIZER = "optimizer.safetensors"
_STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """The learner's state after ``step``: adapter bytes (safetensors), PEFT config, optimizer bytes (safetensors)."""

    step: int
    adapter: bytes
    config: Mapping[str, Any]
    optimizer: bytes

    @property
    def digest(self) -> str:
        """SHA-256 of the adapter's bytes."""
        return sha256_bytes(self.adapter)


def checkpoint_dir(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` is."""
    return run_dir / "checkpoints" / f"step_{step:06d}"


def publish_checkpoint(run_dir: Path, checkpoint: Checkpoint) -> Path:
    """Writes the folder atomically, then removes all but the last ``KEEP``."""
    target = checkpoint_dir(run_dir, checkpoint.step)
    with publishing(target, {"step": checkpoint.step, "adapter_sha256": checkpoint.digest}) as folder:
        write_adapter(folder, checkpoint.adapter, checkpoint.config)
        (folder / _OPTIMIZER).write_bytes(checkpoint.optimizer)
        (folder / _STATE).write_text(json.dumps({"step": checkpoint.step}))
    remove_old(target.parent)
    return target


def load_latest(run_dir: Path) -> Checkpoint | None:
    """The newest checkpoint that verifies, or None."""
    latest = latest_valid(run_dir / "checkpoints", "step_*")
    if latest.folder is None or latest.manifest is None:
        return None
    adapter, config = read_adapter(latest.folder)
    state = json.loads((latest.folder / _STATE).read_text())
    checkpoint = Checkpoint(int(state["step"]), adapter, config, (latest.folder / _OPTIMIZER).read_bytes())
    if checkpoint.digest != latest.manifest.meta["adapter_sha256"]:
        raise CorruptError(f"the adapter in {latest.folder} does not match its manifest")
    return checkpoint


def remove_old(parent: Path) -> None:
    """Removes all but the last ``KEEP`` checkpoints in ``parent``."""
    folders = sorted(path for path in parent.glob("step_*") if path.name.removeprefix("step_").isdecimal())
    for folder in folders[:-KEEP]:
        # The manifest goes first: a folder without one is invisible to readers.
        (folder / "manifest.json").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
