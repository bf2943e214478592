"""Questions in SQL to a trace database: one SELECT, nothing else, bounded in time and rows."""

from __future__ import annotations

import math
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synth_ray.core.errors import ConfigError, DeadlineError
from synth_ray.records.traces import TraceDB

_STEPS_PER_CHECK = 10_000
_TABLES = "the tables are sessions and turns; their columns are in docs/traces.md"
_ALLOWED = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows of JSON values (a blob is its hex digits, infinity None); ``cut`` if there were more than were asked for."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    cut: bool


def ask(path: Path, sql: str, limit: int, timeout_s: float) -> Answer:
    """The first ``limit`` rows of a query. Nothing can be changed, attached or loaded by it.

    Raises ConfigError for SQL that is wrong or wants more than to read, DeadlineError after ``timeout_s``, and what
    opening a TraceDB raises.
    """
    TraceDB(path, read_only=True, check=False).close()  # says what is wrong with the file, and ends a torn transaction
    deadline = time.monotonic() + timeout_s
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        connection.set_authorizer(_authorize)
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS_PER_CHECK)
        try:
            cursor = connection.execute(sql)
            rows = cursor.fetchmany(limit + 1)
        except (sqlite3.Error, sqlite3.Warning, UnicodeError) as error:
            raise _explained(error, timeout_s) from None
        columns = tuple(column[0] for column in cursor.description or ())
    return Answer(columns, tuple(tuple(map(_plain, row)) for row in rows[:limit]), len(rows) > limit)


def _authorize(action: int, *_: Any) -> int:
    return sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.hex() if isinstance(value, bytes) else value


def _explained(error: Exception, timeout_s: float) -> ConfigError | DeadlineError:
    code = getattr(error, "sqlite_errorcode", 0)
    if code == sqlite3.SQLITE_INTERRUPT:
        return DeadlineError(f"the query did not end within {timeout_s:g} s", "ask for less, or give --timeout SECONDS")
    if code == sqlite3.SQLITE_AUTH:
        return ConfigError(
            "only SELECT is allowed here", "export the traces to work on a copy: synth-ray traces export"
        )
    return ConfigError(f"the query failed: {error}", _TABLES)
