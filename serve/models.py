"""From what a user calls a model to the exact weights: built-in names, registry ids, folders, hub ids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from envs.crafter.words import REPLY_PIECES, vocabulary
from synth_ray.core.errors import NotFoundError, WrongWeights
from synth_ray.core.locks import one_at_a_time
from synth_ray.core.paths import Home
from synth_ray.core.types import Weights
from synth_ray.learn.adapter_files import read_adapter
from synth_ray.learn.model_files import base_digest
from synth_ray.learn.model_source import local_model
from synth_ray.records.disk import temporary_name
from synth_ray.records.model_ids import parse_model_id
from synth_ray.records.registry import Registry
from synth_ray.runtime.adapters import AdapterBlob


@dataclass(frozen=True)
class Resolved:
    """A model ready to be asked for. ``root`` is what ids of descendants carry; ``adapter`` is to be published."""

    ref: str
    root: str
    weights: Weights
    adapter: AdapterBlob | None = None


def resolve(ref: str, home: Home, registry: Registry) -> Resolved:
    """The weights behind ``ref``. Raises NotFoundError, with a suggestion, if there are none."""
    if ref in BUILT_IN:
        return _full(ref, ref, str(built_in(ref, home)))
    if ref.partition(":")[0] in ("fft", "peft", "rl"):
        return _registered(ref, registry)
    try:
        local_model(ref)
    except NotFoundError as error:
        raise NotFoundError(error.message, f"{error.hint}; built in: {', '.join(BUILT_IN)}") from None
    source = str(Path(ref).resolve()) if Path(ref).is_dir() else ref
    return _full(ref, ref, source)


def _full(ref: str, root: str, source: str) -> Resolved:
    return Resolved(ref, root, Weights(source, base_digest(local_model(source))))


def _registered(ref: str, registry: Registry) -> Resolved:
    model = registry.model(ref)
    root = parse_model_id(ref).base
    if model.kind == "full":
        return _verified(_full(ref, root, model.path), model.digest)
    data, config = read_adapter(Path(model.path))
    blob = AdapterBlob(f"{model.job_id}@final", model.digest, config, data)
    blob.verify()
    base = _verified(_full(model.base, root, model.base_path), str(model.metrics["base_digest"])).weights
    weights = Weights(base.base_dir, base.base_digest, blob.name, blob.digest)
    return Resolved(ref, root, weights, blob)


def _verified(model: Resolved, digest: str) -> Resolved:
    if model.weights.base_digest != digest:
        raise WrongWeights(
            f"the files of {model.ref} in {model.weights.base_dir} are not those that were registered",
            "restore the folder, or train the model again",
        )
    return model


def _crafter_tiny(folder: Path) -> None:
    from synth_ray.learn.tiny_model import build_tiny_model

    build_tiny_model(vocabulary(), REPLY_PIECES, folder)


BUILT_IN: dict[str, Callable[[Path], None]] = {"crafter-tiny": _crafter_tiny}


def built_in(name: str, home: Home) -> Path:
    """The folder of a built-in model, made on first use."""
    folder = home.models / name
    with one_at_a_time(home.state / "models.lock"):
        if not folder.exists():
            temporary = temporary_name(folder)
            BUILT_IN[name](temporary)
            temporary.rename(folder)
    return folder
