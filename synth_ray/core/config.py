"""Configuration: TOML files left to right, then ``--set``; unknown keys are errors with a suggestion.

Experiment values never come from environment variables, so a run is reproducible from its resolved config, which is
itself accepted as a file.
"""

from __future__ import annotations

import difflib
import json
import math
import tomllib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from synth_ray.core.errors import ConfigError, NotFoundError
from synth_ray.core.hashing import canonical_json, sha256_text
from synth_ray.core.paths import config_path
from synth_ray.core.spelling_rules import RULES, unsaid
from synth_ray.core.spellings import translate

M = TypeVar("M", bound="Section")


class Section(BaseModel):
    """Base of every TOML section: immutable; unknown keys, NaN and infinities are forbidden."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Resolved(Generic[M]):
    """A validated configuration, where each given value came from, and the folder that relative paths mean.

    ``warnings`` name given keys that have no effect, and values that a file of the older system leaves unsaid.
    """

    config: M
    sources: Mapping[str, str]
    base_dir: Path
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """What ``config.resolved.json`` holds."""
        values = self.config.model_dump(mode="json")
        return {"config": values, "sha256": sha256_text(canonical_json(values)), "sources": dict(self.sources)}


def load_config(model: type[M], files: Sequence[Path], sets: Sequence[str] = ()) -> Resolved[M]:
    """Merges ``files`` and ``sets`` (``a.b=c``, TOML-typed) and validates against ``model``.

    The first file tells the spelling; what the older system takes for granted is added where no layer says otherwise.
    """
    merged: dict[str, Any] = {}
    sources: dict[str, str] = {}
    warnings: dict[str, None] = {}
    layers = [(str(file), read_file(file)) for file in map(config_path, files)]
    older = []
    for source, given in [*layers, *(("--set", parse_set(item)) for item in sets)]:
        ours = translate(given, RULES.get(model.__name__, ()), lambda path: _has_field(model, path))
        older.append(ours.older)
        _merge(merged, ours.table, sources, source)
        warnings.update(dict.fromkeys(ours.warnings))
    if files and older[0]:
        added = unsaid(model.__name__, merged)
        _merge(merged, added.table, sources, "synth-ai 0.2")
        warnings.update(dict.fromkeys(added.warnings))
    base_dir = config_path(files[-1]).resolve().parent if files else Path.cwd()
    return Resolved(validate(model, merged), sources, base_dir, tuple(warnings))


def read_file(file: Path) -> dict[str, Any]:
    """A TOML file, or the configuration in a ``config.resolved.json``. Raises NotFoundError, ConfigError."""
    if file.suffix != ".json":
        return read_toml(file)
    try:
        return dict(json.loads(file.read_bytes())["config"])
    except FileNotFoundError:
        raise NotFoundError(f"config file {file} does not exist", _nearby(file)) from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{file} is not a resolved configuration", "give a TOML file") from None


def read_toml(file: Path) -> dict[str, Any]:
    """The parsed file; NotFoundError if it is missing, ConfigError with the line if it is not TOML."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFoundError(f"config file {file} does not exist", _nearby(file)) from None
    except (IsADirectoryError, PermissionError) as error:
        raise ConfigError(f"cannot read the config file {file}: {error.strerror}", "give a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from None


def parse_set(item: str) -> dict[str, Any]:
    """``a.b=c`` as nested tables; the value is TOML, and a bare word is a string."""
    key, separator, value = item.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {item!r} is not KEY=VALUE", "for example --set training.learning_rate=0.001")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    for part in reversed(key.strip().split(".")):
        parsed = {part: parsed}
    return typing.cast(dict[str, Any], parsed)


def set_text(key: str, value: object) -> str:
    """``key=value`` for ``parse_set``, where ``value`` is text, whatever stands in it."""
    quoted = json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML takes no raw DEL.
    return f"{key}={quoted}"


def validate(model: type[M], values: Mapping[str, Any], where: str = "") -> M:
    """``model`` from ``values``; ConfigError that names every wrong key and suggests the right one."""
    try:
        made = model.model_validate(dict(values))
    except ValidationError as error:
        lines = [_explain(model, problem, where) for problem in error.errors(include_url=False)]
        hints = [hint for _, hint in lines if hint]
        raise ConfigError("; ".join(line for line, _ in lines), "; ".join(dict.fromkeys(hints))) from None
    check_finite(values, where)  # Tables of no fixed shape, such as a world's settings, take any number.
    return made


def check_finite(value: Any, path: str = "") -> None:
    """ConfigError that names the first number that no JSON can hold."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{path}: Input should be a finite number")
    entries = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, entry in entries:
        check_finite(entry, f"{path}.{name}" if path else str(name))


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """A suggestion, or the list of what is known."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known))}"


def _merge(
    into: dict[str, Any], new: Mapping[str, Any], sources: dict[str, str], source: str, prefix: str = ""
) -> None:
    for key, value in new.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and isinstance(into.get(key, {}), dict):
            _merge(into.setdefault(key, {}), value, sources, source, f"{path}.")
        else:
            into[key] = value
            sources[path] = source


def _explain(model: type[BaseModel], problem: Mapping[str, Any], where: str) -> tuple[str, str]:
    location = [part for part in problem["loc"] if isinstance(part, str)]
    path = ".".join([where, *location] if where else location)
    if problem["type"] == "extra_forbidden":
        known = _fields_at(model, location[:-1])
        return f"unknown key {path!r}", did_you_mean(location[-1], known) if known else ""
    if problem["type"] == "missing":
        return f"key {path!r} is required", ""
    return f"{path or 'config'}: {problem['msg'].removeprefix('Value error, ')}", ""


def _has_field(model: type[BaseModel], path: str) -> bool:
    *parents, last = path.split(".")
    return last in _fields_at(model, parents)


def _fields_at(model: type[BaseModel], location: Sequence[str]) -> list[str]:
    for part in location:
        field = model.model_fields.get(part)
        inner = _model_in(field.annotation) if field else None
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in typing.get_args(annotation):
        if found := _model_in(argument):
            return found
    return None


def _nearby(file: Path) -> str:
    if not file.parent.is_dir():
        return f"the folder {file.parent} does not exist either"
    names = [path.name for path in file.parent.glob("*.toml")]
    return did_you_mean(file.name, names) if names else f"{file.parent} holds no .toml file"
