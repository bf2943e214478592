"""Adapter files: the folder in which PEFT and vLLM look for a LoRA adapter. Knows nothing about torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from synth_ray.core.errors import CorruptError, NotFoundError

WEIGHTS_NAME = "adapter_model.safetensors"
CONFIG_NAME = "adapter_config.json"


def write_adapter(directory: Path, weights: bytes, config: Mapping[str, Any]) -> None:
    """Writes an adapter folder; equal arguments give equal files. Publishing it atomically is the caller's business."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / WEIGHTS_NAME).write_bytes(weights)
    (directory / CONFIG_NAME).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_adapter(directory: Path) -> tuple[bytes, dict[str, Any]]:
    """The safetensors bytes and the config of an adapter folder.

    Raises NotFoundError if there is no adapter, CorruptError if it is pickled or its config is not a JSON object.
    """
    return adapter_weights_file(directory).read_bytes(), _read_config(directory / CONFIG_NAME)


def adapter_weights_file(directory: Path) -> Path:
    """The safetensors file of an adapter folder.

    Raises NotFoundError if there is none, CorruptError if the folder has a pickle in its place.
    """
    weights = directory / WEIGHTS_NAME
    if weights.is_file():
        return weights
    if any(directory.glob("*.bin")):
        raise CorruptError(f"{directory} has a pickled adapter", hint="pickles are never loaded; save safetensors")
    raise NotFoundError(f"{directory} has no {WEIGHTS_NAME}")


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise NotFoundError(f"{path.parent} has no {path.name}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise CorruptError(f"{path} is not a JSON object")
    return config
