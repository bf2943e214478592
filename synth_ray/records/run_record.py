"""What the JSON files of a run folder say: its record and its configuration. Knows nothing about folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from synth_ray.core.errors import CorruptError
from synth_ray.core.hashing import canonical_json, sha256_text
from synth_ray.records.disk import write_atomic
from synth_ray.records.states import State

RECORD_SCHEMA = "synth-ray/run/1"
CONFIG_SCHEMA = "synth-ray/config/1"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a run: when it began, how it ended (its last state so far), and what Ray called it."""

    number: int
    started_at: str
    state: State
    updated_at: str
    ray_job_id: str = ""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What ``run.json`` says. ``about`` is what the caller adds: type, versions, git commit."""

    run_id: str
    name: str
    config_sha256: str
    state: State
    created_at: str
    updated_at: str
    attempts: tuple[Attempt, ...] = ()
    error: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


def read_record(path: Path) -> RunRecord:
    """The record in ``run.json``. Raises CorruptError."""
    raw = _read_json(path, RECORD_SCHEMA)
    try:
        attempts = tuple(Attempt(**{**one, "state": State(one["state"])}) for one in raw["attempts"])
        return RunRecord(**{**raw, "state": State(raw["state"]), "attempts": attempts})
    except (ValueError, KeyError, TypeError) as error:
        raise _corrupt(path) from error


def write_record(path: Path, record: RunRecord) -> None:
    """Replaces ``run.json``. Raises StorageError."""
    write_atomic(path, _pretty({"schema": RECORD_SCHEMA, **asdict(record)}))


def read_config(path: Path) -> dict[str, Any]:
    """The configuration in ``config.resolved.json``. Raises CorruptError if it does not match its SHA-256."""
    raw = _read_json(path, CONFIG_SCHEMA)
    config = raw.get("config")
    if not isinstance(config, dict) or config_sha256(config) != raw.get("sha256"):
        raise _corrupt(path)
    return config


def write_config(path: Path, config: Mapping[str, Any], sources: Mapping[str, str]) -> None:
    """Writes a configuration, its SHA-256 and where each value came from. Raises StorageError."""
    resolved = {"sha256": config_sha256(config), "config": dict(config), "sources": dict(sources)}
    write_atomic(path, _pretty({"schema": CONFIG_SCHEMA, **resolved}))


def config_sha256(config: Mapping[str, Any]) -> str:
    """SHA-256 of a configuration: equal values give equal digests, whatever the order of the keys."""
    return sha256_text(canonical_json(dict(config)))


def differing_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Dotted keys whose values differ, sorted; a missing key counts as null."""
    before, after = _flat(_plain(old)), _flat(_plain(new))
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(canonical_json(dict(config)))
    return plain


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        flat.update(_flat(entry, f"{prefix}{key}.") if isinstance(entry, dict) and entry else {f"{prefix}{key}": entry})
    return flat


def _read_json(path: Path, schema: str) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _corrupt(path) from error
    if not isinstance(raw, dict) or raw.pop("schema", None) != schema:
        raise _corrupt(path)
    return raw


def _corrupt(path: Path) -> CorruptError:
    return CorruptError(f"{path} is missing or does not verify", "choose another --run-name", path=str(path))


def _pretty(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False) + "\n"
