"""From what a client posts to a configuration of ours, and what a remote caller may name in one.

A caller names models of the registry, built-in ones and hub ids, tasks that are registered, and files that were
uploaded. It can't name a path: this server never reads a file that a request points to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, JsonValue

from envs.registry import TASKS
from serve.models import BUILT_IN
from synth_ray.core.config import did_you_mean
from synth_ray.core.errors import ConfigError
from synth_ray.core.paths import Home
from synth_ray.core.sections import RLConfig
from synth_ray.core.sft_sections import SFTConfig
from synth_ray.learn.model_source import is_hub_id
from synth_ray.records.model_ids import METHODS
from synth_ray.records.registry import Registry

Table = dict[str, Any]

_NAME = re.compile(r"[A-Za-z0-9_-]{0,64}")
_PATHS = ("rubric.path", "judge.options.rubric_id")
"""Values of a configuration that name a file, unless they are the bare name of one that comes with the program."""

_VALIDATION_KEYS = (
    "evaluation_strategy",
    "eval_steps",
    "save_best_model_at_end",
    "metric_for_best_model",
    "greater_is_better",
)


class RLData(BaseModel):
    """``config`` is a whole RL TOML; ``model`` or ``base_model`` take the place of its model."""

    config: dict[str, JsonValue]
    model: str | None = Field(None, max_length=512)
    base_model: str | None = Field(None, max_length=512)
    endpoint_base_url: str | None = Field(None, max_length=2048)


class RLJobBody(BaseModel):
    """The body of `POST /rl/jobs`."""

    job_type: Literal["rl"] = "rl"
    data: RLData


class SFTJobBody(BaseModel):
    """The body of `POST /learning/jobs`."""

    training_type: Literal["sft", "sft_offline"] = "sft_offline"
    model: str = Field(min_length=1, max_length=512)
    training_file_id: str = Field(min_length=1, max_length=64)
    hyperparameters: dict[str, JsonValue] = {}
    metadata: dict[str, JsonValue] = {}


def rl_table(body: RLJobBody) -> Table:
    """The RL configuration that a body asks for, as it would stand in a TOML file."""
    table = _without_nulls(body.data.config)
    given = body.data.model or body.data.base_model
    if given:
        model = _table(table, "model")
        kept = {key: value for key, value in model.items() if key not in ("source", "base")}
        table["model"] = {**kept, "source" if body.data.model else "base": given}
    return table


def sft_table(body: SFTJobBody, upload: Callable[[str], Path]) -> Table:
    """The fine-tuning configuration that a body asks for; ``upload`` finds the bytes of a file id."""
    effective = _table(_without_nulls(body.metadata), "effective_config")
    training, data = _table(effective, "training"), _table(effective, "data")
    numbers = _without_nulls(body.hyperparameters)
    validation = {key: numbers.pop(key) for key in _VALIDATION_KEYS if key in numbers}
    variety = _variety(str(training.get("mode", "")), numbers.pop("train_kind", ""), training.get("use_qlora"))
    table: Table = {
        "algorithm": {"type": "offline", "method": "sft", "variety": variety},
        "job": {"model": body.model, "data": str(upload(body.training_file_id))},
        "hyperparameters": numbers,
    }
    if compute := _table(effective, "compute"):
        table["compute"] = compute
    if files := data.get("validation_files"):
        if not isinstance(files, list) or len(files) != 1:
            raise ConfigError("data.validation_files must hold one file id")
        table["data"] = {"validation_path": str(upload(str(files[0])))}
        table["training"] = {"validation": {**_table(training, "validation"), **validation}}
    return table


def check_rl(config: RLConfig, home: Home, registry: Registry) -> None:
    """Raises ConfigError or NotFoundError for what a remote caller may not name."""
    _check_model(config.model.start, home, registry)
    values = config.model_dump(mode="json")
    for path in _PATHS:
        if not _NAME.fullmatch(_value(values, path)):
            raise ConfigError(f"{path} can't be a file over HTTP", "name one that comes with the program")
    if config.rollout.env_name not in TASKS:
        raise ConfigError(
            f"unknown task {config.rollout.env_name!r}", did_you_mean(config.rollout.env_name, list(TASKS))
        )


def check_sft(config: SFTConfig, home: Home, registry: Registry) -> None:
    """Raises ConfigError or NotFoundError for what a remote caller may not name; the data are uploads already."""
    _check_model(config.job.model, home, registry)


def _check_model(ref: str, home: Home, registry: Registry) -> None:
    if ref in BUILT_IN:
        return
    if ref.partition(":")[0] in METHODS:
        registry.model(ref)
        return
    local = any((folder / ref).exists() for folder in (Path.cwd(), home.project))
    if not is_hub_id(ref) or ".." in ref or local:
        raise ConfigError(
            f"{ref!r} can't be named over HTTP", "give a model id of the registry, a built-in name or a hub id"
        )


def _value(values: Any, path: str) -> str:
    """The text at a dotted path, or nothing."""
    for part in path.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values if isinstance(values, str) else ""


def _variety(mode: str, train_kind: Any, qlora: Any) -> str:
    if qlora:
        return "qlora"
    return "lora" if mode == "lora" or train_kind in ("peft", "lora") else "fft"


def _table(holder: Mapping[str, Any], key: str) -> Table:
    value = holder.get(key, {})
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key} must be a table")
    return dict(value)


def _without_nulls(value: Mapping[str, Any]) -> Table:
    """TOML has no null: an entry without a value is not there."""
    return {key: _plain(entry) for key, entry in value.items() if entry is not None}


def _plain(entry: Any) -> Any:
    if isinstance(entry, Mapping):
        return _without_nulls(entry)
    return [_plain(one) for one in entry] if isinstance(entry, list) else entry
