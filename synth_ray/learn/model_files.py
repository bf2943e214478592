"""Model files: what makes a local model folder this model and no other. Knows nothing about torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from synth_ray.core.errors import CorruptError, NotFoundError
from synth_ray.core.hashing import sha256_file, sha256_text

CONFIG_NAME = "config.json"
_INCIDENTAL = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")


def weight_files(model_dir: Path) -> list[Path]:
    """The safetensors files of a model folder, by name.

    Raises NotFoundError without a folder or weights, CorruptError if it has pickled weights only.
    """
    if not (model_dir / CONFIG_NAME).is_file():
        raise NotFoundError(f"{model_dir} is not a model folder: it has no {CONFIG_NAME}")
    files = sorted(model_dir.glob("*.safetensors"), key=lambda path: path.name)
    if files:
        return files
    if any(model_dir.glob("*.bin")):
        raise CorruptError(f"{model_dir} has pickled weights only", hint="convert them to safetensors")
    raise NotFoundError(f"{model_dir} has no safetensors file")


def base_digest(model_dir: Path) -> str:
    """Hex SHA-256 of a base model: over the digests of its safetensors files, by name, and of its config.json.

    Raises what ``weight_files`` raises.
    """
    files = [*weight_files(model_dir), model_dir / CONFIG_NAME]
    return sha256_text("".join(f"{path.name} {sha256_file(path)}\n" for path in files))


def architecture_of(model_dir: Path) -> dict[str, Any]:
    """The entries of config.json that decide what a model computes, without names, versions and dtypes.

    Raises NotFoundError without a config.json.
    """
    path = model_dir / CONFIG_NAME
    if not path.is_file():
        raise NotFoundError(f"{model_dir} is not a model folder: it has no {CONFIG_NAME}")
    config = json.loads(path.read_text(encoding="utf-8"))
    return {"tie_word_embeddings": True} | {key: value for key, value in config.items() if key not in _INCIDENTAL}
