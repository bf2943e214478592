"""Sessions: rollouts without their turns, and the question which of them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from synth_ray.core.types import Provenance, StopReason


@dataclass(frozen=True, slots=True)
class Session:
    """A rollout without its turns; ``metadata`` is what was given when it was added."""

    rollout_id: str
    run_id: str
    task: str
    seed: int
    model: str
    provenance: Provenance
    outcome: float
    achievements: tuple[str, ...]
    stop_reason: StopReason
    started_at: str
    duration_ms: float
    n_turns: int
    invalid_turns: int
    step: int
    group: int
    index: int
    error: str | None
    env_config: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SessionQuery:
    """Which sessions, in which order. Empty fields do not restrict.

    ``order``: ``added`` (oldest first), ``newest`` (last added first) or ``seed`` (by seed, then id).
    """

    run_id: str = ""
    models: Sequence[str] = ()
    tasks: Sequence[str] = ()
    seeds: Sequence[int] = ()
    step: int | None = None
    min_outcome: float | None = None
    max_outcome: float | None = None
    limit: int | None = None
    order: Literal["added", "newest", "seed"] = "added"


ALL = SessionQuery()

_KEYS: Mapping[str, tuple[tuple[str, ...], str, str]] = {
    "added": (("rowid",), "rowid", ">"),
    "newest": (("rowid",), "rowid DESC", "<"),
    "seed": (("seed", "rollout_id"), "seed, rollout_id", ">"),
}
_IS_LISTED = " IN (SELECT value FROM json_each(?))"


def page_sql(query: SessionQuery, last: sqlite3.Row | None, size: int) -> tuple[str, list[Any]]:
    """SQL and values for the next ``size`` sessions after the row ``last``; the values never enter the text."""
    conditions, values = _conditions(query)
    key, order, after = _KEYS[query.order]
    if last is not None:
        conditions.append(f"({', '.join(key)}) {after} ({', '.join('?' * len(key))})")
        values += [last[column] for column in key]
    where = " AND ".join(["1", *conditions])
    return " ".join(["SELECT rowid, * FROM sessions WHERE", where, "ORDER BY", order, "LIMIT ?"]), [*values, size]


def session_from(row: sqlite3.Row) -> Session:
    """The session in a row. Raises ValueError if a value does not decode."""
    return Session(
        rollout_id=row["rollout_id"],
        run_id=row["run_id"],
        task=row["task"],
        seed=row["seed"],
        model=row["model"],
        provenance=Provenance(row["provenance"]),
        outcome=row["outcome"],
        achievements=tuple(json.loads(row["achievements"])),
        stop_reason=StopReason(row["stop_reason"]),
        started_at=row["started_at"],
        duration_ms=row["duration_ms"],
        n_turns=row["n_turns"],
        invalid_turns=row["invalid_turns"],
        step=row["step"],
        group=row["group_id"],
        index=row["index_in_group"],
        error=row["error"],
        env_config=json.loads(row["env_config"]),
        metadata=json.loads(row["metadata"]),
    )


def _conditions(query: SessionQuery) -> tuple[list[str], list[Any]]:
    compared: tuple[tuple[str, Any], ...] = (
        ("run_id = ?", query.run_id or None),
        ("step = ?", query.step),
        ("outcome >= ?", query.min_outcome),
        ("outcome <= ?", query.max_outcome),
    )
    listed: tuple[tuple[str, Sequence[Any]], ...] = (
        ("model", query.models),
        ("task", query.tasks),
        ("seed", query.seeds),
    )
    wanted = [(text, value) for text, value in compared if value is not None]
    wanted += [(name + _IS_LISTED, json.dumps(list(some))) for name, some in listed if some]
    return [text for text, _ in wanted], [value for _, value in wanted]
