"""The trace database: every finished rollout, once, as the system of record.

Schema version 1 (``PRAGMA user_version``); until a release has written it, it may still change. File rules in
``database.py``: always ``journal_mode=TRUNCATE``, because SQLite's write-ahead log can lose committed rows in 3.7.0 to
3.51.2 when several connections are open, and several of our processes write.

Tables, columns and units are in docs/traces.md, which a test compares with ``LAYOUT``.

Invariants: a rollout is in the file completely or not at all; its id is there at most once; rows never change, except
that metadata may be added later.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from synth_ray.core.errors import CorruptError, NotFoundError
from synth_ray.core.types import Rollout
from synth_ray.records.database import Database, Layout, insert_sql
from synth_ray.records.rollout_rows import (
    SESSION_COLUMNS,
    TURN_COLUMNS,
    rollout_from,
    session_values,
    to_json,
    turn_values,
)
from synth_ray.records.sessions import ALL, Session, SessionQuery, page_sql, session_from

__all__ = ["ALL", "LAYOUT", "Added", "Session", "SessionQuery", "TraceDB"]

_PAGE_ROWS = 256

LAYOUT = Layout(
    kind="trace database",
    application_id=0x53525452,  # "SRTR"
    version=1,
    script="""
CREATE TABLE sessions (
    rollout_id TEXT PRIMARY KEY NOT NULL, run_id TEXT NOT NULL, task TEXT NOT NULL, seed INTEGER NOT NULL,
    model TEXT NOT NULL, provenance TEXT NOT NULL, outcome REAL NOT NULL, achievements TEXT NOT NULL,
    stop_reason TEXT NOT NULL, started_at TEXT NOT NULL, duration_ms REAL NOT NULL, n_turns INTEGER NOT NULL,
    invalid_turns INTEGER NOT NULL, step INTEGER NOT NULL, group_id INTEGER NOT NULL, index_in_group INTEGER NOT NULL,
    error TEXT, env_config TEXT NOT NULL, metadata TEXT NOT NULL
) STRICT;
CREATE INDEX sessions_by_run ON sessions (run_id, step);
CREATE INDEX sessions_by_seed ON sessions (seed, rollout_id);
CREATE TABLE turns (
    rollout_id TEXT NOT NULL REFERENCES sessions (rollout_id) ON DELETE CASCADE, turn INTEGER NOT NULL,
    messages TEXT NOT NULL, reply_text TEXT NOT NULL, reply_extra TEXT NOT NULL, facts TEXT NOT NULL,
    reward TEXT NOT NULL, prompt_ids BLOB NOT NULL, token_ids BLOB NOT NULL, logprobs BLOB NOT NULL,
    weights_name TEXT NOT NULL, weights_digest TEXT NOT NULL, finish_reason TEXT NOT NULL, usage TEXT NOT NULL,
    sample_ms REAL NOT NULL, env_ms REAL NOT NULL,
    PRIMARY KEY (rollout_id, turn)
) STRICT;
""",
)


@dataclass(frozen=True, slots=True)
class Added:
    """What ``TraceDB.add`` did: rollouts stored now, and rollouts ignored because their id was there already."""

    new: int
    ignored: int


class TraceDB:
    """The trace database at ``path``; created (mode 0600) if missing, unless ``read_only``.

    Raises CorruptError (exit 7) if the file is damaged or not ours, NotFoundError if ``read_only`` and missing.
    ``check=False`` skips the scan of the whole file at opening. Usable from several threads and processes at once.
    """

    def __init__(self, path: Path, read_only: bool = False, check: bool = True) -> None:
        self.path = path
        self._database = Database(path, LAYOUT, read_only, check)

    def add(
        self,
        rollouts: Iterable[Rollout],
        metadata: Mapping[str, Any] | None = None,
        own: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Added:
        """Stores rollouts in one transaction; on return they are on the disk. Known ids are ignored and counted.

        Each gets ``metadata`` and, by its id, its ``own``.
        Raises StorageError (disk full), TemporaryError (locked for 30 s), or CorruptError for a rollout with a number
        that is not finite; nothing is stored then.
        """
        every, by_id = metadata or {}, own or {}
        batch = [_encoded(one, {**every, **by_id.get(one.rollout_id, {})}) for one in rollouts]  # before the lock
        with self._database.writing() as connection:
            new = sum(_insert(connection, rows) for rows in batch)
        return Added(new, len(batch) - new)

    def annotate(self, rollout_id: str, metadata: Mapping[str, Any]) -> None:
        """Adds ``metadata`` to a stored rollout's own, where equal names are replaced; on return it is on the disk.

        Raises what ``add`` raises, and NotFoundError.
        """
        with self._database.writing() as connection:
            row = connection.execute("SELECT metadata FROM sessions WHERE rollout_id = ?", (rollout_id,)).fetchone()
            if row is None:
                raise self._missing(rollout_id)
            with _decoding(self.path, rollout_id):
                both = to_json({**json.loads(row["metadata"]), **metadata})
            connection.execute("UPDATE sessions SET metadata = ? WHERE rollout_id = ?", (both, rollout_id))

    def count(self) -> int:
        """Number of rollouts."""
        return int(self._database.rows("SELECT count(*) FROM sessions")[0][0])

    def sessions(self, query: SessionQuery = ALL) -> Iterator[Session]:
        """Streams sessions in pages of 256: memory stays bounded and writers are never kept out."""
        for row in self._pages(query):
            with _decoding(self.path, row["rollout_id"]):
                session = session_from(row)
            yield session

    def session(self, rollout_id: str) -> Session | None:
        """The session with this id, if it is there. Raises CorruptError if its row does not decode."""
        rows = self._session_rows(rollout_id)
        with _decoding(self.path, rollout_id):
            return session_from(rows[0]) if rows else None

    def rollouts(self, query: SessionQuery = ALL) -> Iterator[Rollout]:
        """Streams whole rollouts, one in memory at a time."""
        for row in self._pages(query):
            yield self._with_turns(row)

    def load(self, rollout_id: str) -> Rollout:
        """The rollout with this id. Raises NotFoundError, or CorruptError if its rows do not decode."""
        rows = self._session_rows(rollout_id)
        if not rows:
            raise self._missing(rollout_id)
        return self._with_turns(rows[0])

    def outcomes(self) -> list[tuple[str, float]]:
        """Id and outcome of every rollout, in the order in which they were added."""
        rows = self._database.rows("SELECT rollout_id, outcome FROM sessions ORDER BY rowid")
        return [(row["rollout_id"], row["outcome"]) for row in rows]

    def close(self) -> None:
        """Closes the file."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _missing(self, rollout_id: str) -> NotFoundError:
        return NotFoundError(f"no rollout {rollout_id!r} in {self.path}", "list the rollouts that are there")

    def _session_rows(self, rollout_id: str) -> list[sqlite3.Row]:
        return self._database.rows("SELECT * FROM sessions WHERE rollout_id = ?", (rollout_id,))

    def _with_turns(self, row: sqlite3.Row) -> Rollout:
        rollout_id = row["rollout_id"]
        turns = self._database.rows("SELECT * FROM turns WHERE rollout_id = ? ORDER BY turn", (rollout_id,))
        with _decoding(self.path, rollout_id):
            if len(turns) != row["n_turns"]:
                raise ValueError(f"{len(turns)} of {row['n_turns']} turns are there")
            return rollout_from(row, turns)

    def _pages(self, query: SessionQuery) -> Iterator[sqlite3.Row]:
        left = query.limit if query.limit is not None else -1
        last: sqlite3.Row | None = None
        while left != 0:
            size = _PAGE_ROWS if left < 0 else min(left, _PAGE_ROWS)
            rows = self._database.rows(*page_sql(query, last, size))
            yield from rows
            if len(rows) < size:
                return
            left -= size
            last = rows[-1]


_INSERT_SESSION = insert_sql("sessions", SESSION_COLUMNS) + " ON CONFLICT (rollout_id) DO NOTHING"
_INSERT_TURN = insert_sql("turns", TURN_COLUMNS)
_Rows = tuple[tuple[Any, ...], list[tuple[Any, ...]]]


def _encoded(rollout: Rollout, metadata: Mapping[str, Any]) -> _Rows:
    try:
        return session_values(rollout, metadata), [turn_values(rollout.rollout_id, turn) for turn in rollout.turns]
    except ValueError as error:
        raise CorruptError(
            f"rollout {rollout.rollout_id} cannot be stored: {error}", "fix the task's rewards"
        ) from error


def _insert(connection: sqlite3.Connection, rows: _Rows) -> bool:
    session, turns = rows
    if connection.execute(_INSERT_SESSION, session).rowcount == 0:
        return False
    connection.executemany(_INSERT_TURN, turns)
    return True


@contextmanager
def _decoding(path: Path, rollout_id: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptError(
            f"rollout {rollout_id} in {path} is damaged: {error}",
            "the other rollouts can still be read",
            path=str(path),
        ) from error
