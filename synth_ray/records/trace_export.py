"""Traces to one file for other programs: Parquet, JSON lines, or OpenTelemetry spans as OTLP JSON lines.

The file appears whole or not at all; equal traces give equal bytes. Parquet has one row per rollout in the schema of
``rollout_schema.py``, with the turns as a list of structs in the column ``turns``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from synth_ray import __version__
from synth_ray.core.types import Rollout
from synth_ray.records.disk import storage_errors, sync_path, temporary_name
from synth_ray.records.rollout_schema import ROLLOUTS, SCHEMA_VERSION, TURNS, rollout_row
from synth_ray.records.trace_json import json_line, otlp_line

_ROWS_PER_GROUP = 256

SCHEMA = pa.schema([*ROLLOUTS, pa.field("turns", pa.list_(pa.struct(list(TURNS))), nullable=False)]).with_metadata(
    {"schema_version": str(SCHEMA_VERSION), "producer": f"synth-ray {__version__}"}
)

Write = Callable[[Path, Iterable[Rollout], bool], int]


def export(rollouts: Iterable[Rollout], format_name: str, out: Path, content: bool = False) -> int:
    """Writes ``out`` in a format of ``FORMATS``; returns the number of rollouts.

    ``content`` adds messages and tool arguments to ``otlp-json``; the other formats always have them. Raises
    StorageError, and KeyError for an unknown format.
    """
    write = FORMATS[format_name]
    with _appearing(out) as temporary:
        return write(temporary, rollouts, content)


def _parquet(path: Path, rollouts: Iterable[Rollout], _: bool) -> int:
    count, source = 0, iter(rollouts)
    with pq.ParquetWriter(path, SCHEMA, compression="zstd", write_page_checksum=True) as writer:
        while group := list(islice(source, _ROWS_PER_GROUP)):
            rows = [asdict(rollout_row(one)) for one in group]
            writer.write_table(pa.Table.from_pylist([_arrow(row) for row in rows], SCHEMA))
            count += len(group)
    return count


def _arrow(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "reward_components": list(row["reward_components"].items()), "turns": list(row["turns"])}


def _jsonl(path: Path, rollouts: Iterable[Rollout], _: bool) -> int:
    return _lines(path, map(json_line, rollouts))


def _otlp(path: Path, rollouts: Iterable[Rollout], content: bool) -> int:
    return _lines(path, (otlp_line(one, content) for one in rollouts))


def _lines(path: Path, lines: Iterable[str]) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for line in lines:
            file.write(line + "\n")
            count += 1
    return count


FORMATS: Mapping[str, Write] = {"parquet": _parquet, "jsonl": _jsonl, "otlp-json": _otlp}


@contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """A temporary name that becomes ``path`` when the block ends well, and vanishes otherwise."""
    temporary = temporary_name(path)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            sync_path(temporary)
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
