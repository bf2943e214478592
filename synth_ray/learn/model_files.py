"""Model files: what makes a local model folder this model and no other. Knows nothing about torch."""

from __future__ import annotations

from pathlib import Path

from synth_ray.core.errors import CorruptError, NotFoundError
from synth_ray.core.hashing import sha256_file, sha256_text

CONFIG_NAME = "config.json"


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
