"""Older spellings of SFT TOMLs, translated to the sections' own keys.

Invariants: own keys pass unchanged, so translating twice is translating once; a key that neither is known nor ignored
stays where it is or is an error, never silently dropped; what is ignored is said in a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from synth_ray.core.config import did_you_mean

log = logging.getLogger("synth_ray.config")

_IGNORED = {
    ("tags",): "labels are not kept",
    ("policy",): "the model is [job].model",
    ("job", "poll_seconds"): "progress is pushed",
    ("compute", "nodes"): "workers go where the cluster has GPUs",
    ("compute", "gpus_per_node"): "workers go where the cluster has GPUs",
    ("compute", "variant"): "it has no meaning here",
    ("data", "topology"): "data is read by every worker",
    ("hyperparameters", "world_size"): "the number of workers comes from [compute]",
    ("hyperparameters", "parallelism", "bf16"): "GPUs compute in bfloat16, CPUs in float32",
    ("hyperparameters", "parallelism", "fp16"): "GPUs compute in bfloat16, CPUs in float32",
    ("hyperparameters", "parallelism", "tensor_parallel_size"): "training is data-parallel",
    ("hyperparameters", "parallelism", "pipeline_parallel_size"): "training is data-parallel",
    ("training", "validation", "evaluation_strategy"): "eval_steps says how often",
    ("training", "validation", "save_best_model_at_end"): "the last weights are kept",
    ("training", "validation", "metric_for_best_model"): "the last weights are kept",
    ("training", "validation", "greater_is_better"): "the last weights are kept",
}
_MOVED = {
    ("job", "data_path"): ("job", "data"),
    ("compute", "gpu_count"): ("compute", "topology", "gpus_for_training"),
    ("hyperparameters", "global_batch"): ("hyperparameters", "batch_size"),
    ("hyperparameters", "total_steps"): ("hyperparameters", "max_steps"),
    ("hyperparameters", "train_steps"): ("hyperparameters", "max_steps"),
    ("hyperparameters", "steps"): ("hyperparameters", "max_steps"),
    ("hyperparameters", "lora_rank"): ("lora", "r"),
    ("hyperparameters", "lora_alpha"): ("lora", "alpha"),
    ("hyperparameters", "lora_dropout"): ("lora", "dropout"),
    ("hyperparameters", "lora_target_modules"): ("lora", "target_modules"),
    ("hyperparameters", "parallelism", "activation_checkpointing"): ("hyperparameters", "activation_checkpointing"),
    ("training", "lora", "r"): ("lora", "r"),
    ("training", "lora", "alpha"): ("lora", "alpha"),
    ("training", "lora", "dropout"): ("lora", "dropout"),
    ("training", "lora", "target_modules"): ("lora", "target_modules"),
    ("training", "validation", "eval_steps"): ("hyperparameters", "eval_steps"),
}
_TRAINING = ("mode", "use_qlora", "validation", "lora")
_VALIDATION = ("enabled", *(path[-1] for path in _IGNORED if path[0] == "training"), "eval_steps")
_PARALLELISM = (
    "use_deepspeed",
    "deepspeed_stage",
    "fsdp",
    "activation_checkpointing",
    *(path[-1] for path in _IGNORED if path[:2] == ("hyperparameters", "parallelism")),
)
_FIRST_SHARDING_STAGE = 1
_MODES = {"full_finetune": "fft", "lora": "lora", "qlora": "qlora", "sft_offline": ""}
_KINDS = {"fft": "fft", "peft": "lora"}


def translated(given: Mapping[str, Any]) -> dict[str, Any]:
    """``given`` in the sections' own keys. Raises ValueError for contradictions and for unknown keys of old tables."""
    values = {key: _copied(value) for key, value in given.items()}
    _accumulation(values)
    _sharding(values)
    _variety(values)
    validation = _table(values, "training", "validation")
    if validation.pop("enabled", True) is False:
        _table(values, "data").pop("validation_path", None)
    for path, target in _MOVED.items():
        _move(values, path, target)
    for path, reason in _IGNORED.items():
        if _pop(values, path) is not None:
            log.warning("%s is accepted and ignored: %s", ".".join(path), reason)
    _nothing_left(values, ("training", "validation"), _VALIDATION)
    _nothing_left(values, ("training", "lora"), ("r", "alpha", "dropout", "target_modules"))
    _nothing_left(values, ("training",), _TRAINING)
    _nothing_left(values, ("hyperparameters", "parallelism"), _PARALLELISM)
    return values


def _accumulation(values: dict[str, Any]) -> None:
    """With accumulation steps, ``batch_size`` counts the examples of one worker at once, as such files mean it."""
    given = _table(values, "hyperparameters")
    steps = given.pop("gradient_accumulation_steps", None)
    if steps is None:
        return
    at_once = given.setdefault("per_device_batch", given.pop("batch_size", None) or 1)
    compute = _table(values, "compute")
    topology = _table(values, "compute", "topology")
    workers = topology.get("gpus_for_training") or compute.get("gpu_count") or topology.get("cpu_workers") or 1
    product = (
        _whole("hyperparameters.per_device_batch", at_once)
        * _whole("hyperparameters.gradient_accumulation_steps", steps)
        * _whole("the number of workers in [compute]", workers)
    )
    given.pop("batch_size", None)
    if given.setdefault("global_batch", product) != product:
        log.warning("global_batch = %s wins over %s examples by accumulation", given["global_batch"], product)


def _sharding(values: dict[str, Any]) -> None:
    parallelism = _table(values, "hyperparameters", "parallelism")
    wanted = bool(parallelism.pop("fsdp", False))
    if parallelism.pop("use_deepspeed", False):
        stage = _whole("hyperparameters.parallelism.deepspeed_stage", parallelism.get("deepspeed_stage", 0))
        wanted |= stage >= _FIRST_SHARDING_STAGE
    parallelism.pop("deepspeed_stage", None)
    if wanted:
        _made(values, "compute").setdefault("parallelism", "fsdp")


def _variety(values: dict[str, Any]) -> None:
    training, given = _table(values, "training"), _table(values, "hyperparameters")
    algorithm = _made(values, "algorithm")
    said = {
        "algorithm.variety": str(algorithm.get("variety", "")),
        "training.mode": _named("training.mode", training.pop("mode", ""), _MODES),
        "hyperparameters.train_kind": _named("hyperparameters.train_kind", given.pop("train_kind", ""), _KINDS),
    }
    said = {key: "lora" if variety == "qlora" else variety for key, variety in said.items() if variety}
    if len(set(said.values())) > 1:
        raise ValueError(f"{' and '.join(said)} contradict each other")
    quantised = bool(training.pop("use_qlora", False)) or algorithm.get("variety") == "qlora"
    if quantised and "fft" in said.values():
        raise ValueError('training.use_qlora = true needs variety = "qlora"')
    if quantised or said:
        algorithm["variety"] = "qlora" if quantised else next(iter(said.values()))


def _named(key: str, value: Any, known: Mapping[str, str]) -> str:
    if value in ("", None):
        return ""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{key} = {value!r} is unknown; {did_you_mean(str(value), list(known))}")
    return known[value]


def _whole(key: str, value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{key} = {value!r} is no whole number") from None


def _move(values: dict[str, Any], path: tuple[str, ...], target: tuple[str, ...]) -> None:
    value = _pop(values, path)
    if value is None:
        return
    table = _made(values, *target[:-1])
    if table.setdefault(target[-1], value) != value:
        raise ValueError(f"{'.'.join(path)} and {'.'.join(target)} contradict each other")


def _pop(values: dict[str, Any], path: tuple[str, ...]) -> Any:
    return _table(values, *path[:-1]).pop(path[-1], None)


def _table(values: dict[str, Any], *path: str) -> dict[str, Any]:
    """The table at ``path``; an empty one, which is not kept, if there is none. ValueError for anything else."""
    table = values
    for depth, name in enumerate(path, 1):
        entry = table.get(name)
        table = {} if entry is None else entry
        if not isinstance(table, dict):
            raise ValueError(f"{'.'.join(path[:depth])} must be a table")
    return table


def _made(values: dict[str, Any], *path: str) -> dict[str, Any]:
    """The table at ``path``, which is made if there is none. ValueError for anything else."""
    table = values
    for depth, name in enumerate(path, 1):
        table[name] = _table(values, *path[:depth])
        table = table[name]
    return table


def _nothing_left(values: dict[str, Any], path: tuple[str, ...], known: tuple[str, ...]) -> None:
    table = _table(values, *path)
    if table:
        key = next(iter(table))
        raise ValueError(f"unknown key {'.'.join((*path, key))!r}; {did_you_mean(key, known)}")
    _pop(values, path)


def _copied(value: Any) -> Any:
    return {key: _copied(entry) for key, entry in value.items()} if isinstance(value, Mapping) else value
