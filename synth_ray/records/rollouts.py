"""The rollouts of each training step as Parquet, so that every reported number can be recomputed from files.

``step=000003.turns.parquet`` has one row per model turn and is written first; ``step=000003.parquet`` has one row per
rollout, carries the SHA-256 of the turns file, and its appearance publishes the pair. zstd, sorted by id, page
checksums; equal content gives equal bytes. Messages are JSON text, because tool arguments have no fixed schema; no
Arrow extension types, because loading some of them runs code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from synth_ray import __version__
from synth_ray.core.errors import CorruptError, NotFoundError
from synth_ray.core.hashing import sha256_bytes, sha256_file
from synth_ray.core.types import Rollout
from synth_ray.records.disk import write_atomic
from synth_ray.records.rollout_schema import ROLLOUTS, SCHEMA_VERSION, TURNS, RolloutRow, TurnRow, rollout_row

__all__ = ["RolloutRow", "TurnRow", "mean_reward", "read_outcomes", "read_rollouts", "rollouts_path", "write_rollouts"]

_HINT = "no other file has these rollouts: put back a copy of it, or train again under another --run-name"


def rollouts_path(folder: Path, step: int) -> Path:
    """Where the rollouts of ``step`` are in ``folder``."""
    return folder / f"step={step:06d}.parquet"


def write_rollouts(
    folder: Path,
    step: int,
    rollouts: Sequence[Rollout],
    extra: Mapping[str, Sequence[float]] | None = None,
    config_sha256: str = "",
) -> Path:
    """Writes the rollouts of one step and their turns; returns the path of the rollouts file.

    ``extra`` maps rollout ids to advantages, one per turn. Writing a step again replaces it. Raises ValueError for
    advantages that don't fit or numbers that are not finite, StorageError if the disk is full.
    """
    advantages = extra or {}
    rows = sorted((rollout_row(one, advantages.get(one.rollout_id)) for one in rollouts), key=_by_id)
    metadata = {
        "schema_version": str(SCHEMA_VERSION),
        "producer": f"synth-ray {__version__}",
        "config_sha256": config_sha256,
    }
    turns = _parquet([turn for row in rows for turn in row.turns], TURNS, metadata)
    path = rollouts_path(folder, step)
    write_atomic(_turns_path(path), turns)
    write_atomic(path, _parquet(rows, ROLLOUTS, {**metadata, "turns_sha256": sha256_bytes(turns)}))
    return path


def read_rollouts(path: Path) -> list[RolloutRow]:
    """All rollouts of a step with their turns, sorted by id.

    Raises NotFoundError, or CorruptError naming the file if one of the two does not read or they don't belong together.
    """
    with _reading(path):
        table = _table(path)
        turns_path = _turns_path(path)
        if sha256_file(turns_path) != table.schema.metadata[b"turns_sha256"].decode():
            raise CorruptError(f"{turns_path} does not belong to {path.name}", _HINT, path=str(turns_path))
        by_rollout: dict[str, list[TurnRow]] = {}
        for values in _table(turns_path).to_pylist():
            by_rollout.setdefault(values["trajectory_id"], []).append(TurnRow(**values))
        return [_row_from(values, by_rollout.get(values["trajectory_id"], [])) for values in table.to_pylist()]


def mean_reward(path: Path) -> float:
    """Mean outcome reward of the rollouts in the file. Raises NotFoundError, or CorruptError if it has none."""
    with _reading(path):
        rewards = _table(path, ["reward"]).column("reward").to_pylist()
    if not rewards:
        raise CorruptError(f"{path} holds no rollouts", _HINT, path=str(path))
    return math.fsum(rewards) / len(rewards)


def read_outcomes(path: Path) -> list[tuple[str, float]]:
    """Id and outcome reward of the rollouts in the file, sorted by id. Raises NotFoundError or CorruptError."""
    with _reading(path):
        columns = _table(path, ["trajectory_id", "reward"])
        return list(zip(columns.column(0).to_pylist(), columns.column(1).to_pylist(), strict=True))


def _turns_path(path: Path) -> Path:
    return path.with_suffix(".turns.parquet")


def _by_id(row: RolloutRow) -> str:
    return row.trajectory_id


def _parquet(rows: Sequence[RolloutRow | TurnRow], schema: Any, metadata: Mapping[str, str]) -> bytes:
    stamped = schema.with_metadata({**metadata, "row_count": str(len(rows))})
    columns = [pa.array(_column(rows, column), column.type) for column in stamped]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(columns, schema=stamped), sink, compression="zstd", write_page_checksum=True)
    return bytes(sink.getvalue())


def _column(rows: Sequence[RolloutRow | TurnRow], column: Any) -> list[Any]:
    values = [getattr(row, column.name) for row in rows]
    return [list(value.items()) for value in values] if pa.types.is_map(column.type) else values


def _table(path: Path, columns: list[str] | None = None) -> Any:
    table = pq.read_table(path, columns=columns, page_checksum_verification=True, partitioning=None)
    metadata = table.schema.metadata or {}
    if int(metadata[b"schema_version"]) != SCHEMA_VERSION or int(metadata[b"row_count"]) != table.num_rows:
        raise CorruptError(f"{path} has another schema version or lacks rows", _HINT, path=str(path))
    return table


def _row_from(values: Mapping[str, Any], turns: Sequence[TurnRow]) -> RolloutRow:
    if len(turns) != values["n_turns"]:
        raise ValueError(f"{values['trajectory_id']} has {len(turns)} of {values['n_turns']} turns")
    known = {one.name for one in fields(RolloutRow)}
    plain = {name: value for name, value in values.items() if name in known}
    return RolloutRow(**{**plain, "reward_components": dict(values["reward_components"]), "turns": tuple(turns)})


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise NotFoundError(
            f"there is no rollout file {error.filename or path}", "check the run and the step"
        ) from error
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptError(f"{path} does not read as rollouts: {error}", _HINT, path=str(path)) from error
