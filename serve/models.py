"""From what a user calls a model to the exact weights: built-in names, registry ids, folders, hub ids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from envs.crafter.words import REPLY_PIECES, vocabulary
from synth_ray.core.errors import ConfigError, NotFoundError, WrongWeights
from synth_ray.core.hashing import sha256_text
from synth_ray.core.locks import one_at_a_time
from synth_ray.core.paths import Home
from synth_ray.core.types import Weights
from synth_ray.learn.adapter_files import read_adapter, write_adapter
from synth_ray.learn.model_files import base_digest
from synth_ray.learn.model_source import local_model
from synth_ray.records.disk import temporary_name
from synth_ray.records.model_ids import parse_model_id
from synth_ray.records.publish import MANIFEST_NAME, publishing
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
    folders = (home.project / ref, Path(ref))
    source = next((str(folder.resolve()) for folder in folders if folder.is_dir()), ref)
    try:
        local_model(source)
    except NotFoundError as error:
        raise NotFoundError(error.message, f"{error.hint}; built in: {', '.join(BUILT_IN)}") from None
    return _full(ref, ref, source)


def as_base(model: Resolved, home: Home) -> Resolved:
    """``model`` without an adapter: training starts from full weights, so an adapter is merged into its base once.

    The merged folder is named by the digests of both, and made by whoever needs it first.
    """
    if model.adapter is None:
        return model
    folder = home.models / f"merged-{sha256_text(f'{model.weights.base_digest} {model.weights.adapter_digest}')[:16]}"
    with one_at_a_time(home.state / "models.lock"):
        if not (folder / MANIFEST_NAME).exists():
            _merge(model, model.adapter, folder)
    return _full(model.ref, model.root, str(folder))


def check_rank(model: Resolved, max_lora_rank: int) -> None:
    """ConfigError if the engine has no room for the model's adapter."""
    rank = int(model.adapter.config.get("r", 0)) if model.adapter else 0
    if rank > max_lora_rank:
        raise ConfigError(
            f"the adapter {model.ref} has rank {rank}, the engine takes up to {max_lora_rank}",
            f"set vllm.max_lora_rank = {rank} for engine and evaluation",
        )


def _merge(model: Resolved, adapter: AdapterBlob, folder: Path) -> None:
    from synth_ray.learn.merge import merge_adapter

    about = {"merged": model.ref, "base_digest": model.weights.base_digest, "adapter_sha256": adapter.digest}
    with publishing(folder, about) as unfinished, TemporaryDirectory() as scratch:
        write_adapter(Path(scratch), adapter.data, adapter.config)
        merge_adapter(local_model(model.weights.base_dir), Path(scratch), unfinished)


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
