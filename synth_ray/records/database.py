"""SQLite files that survive kills, full disks and several writers; the rules that all our databases share.

* ``journal_mode=TRUNCATE``, always. SQLite's write-ahead log has a data race in 3.7.0 to 3.51.2 (the "WAL-reset bug": a
  checkpoint that races a commit on another connection can lose or corrupt committed rows), Python often links such a
  version, and several of our processes write. Rollback journals don't have that race.
* ``synchronous=FULL``: when a write returns, its rows are on the disk. So "added" may be acknowledged.
* ``busy_timeout`` of 30 s; then a TemporaryError (exit 75).
* A new file is built under a temporary name with mode 0600 and linked into place, so no process ever meets half a
  schema and an empty file is always damage.
* Reads are short: a reader that kept a cursor open would keep every writer out.
* The file says what it is (``application_id``) and which schema it has (``user_version``).
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from synth_ray.core.errors import (
    ConflictError,
    CorruptError,
    NotFoundError,
    StorageError,
    SynthRayError,
    TemporaryError,
)
from synth_ray.core.paths import private_dir
from synth_ray.records.disk import storage_errors, sync_path, temporary_name

BUSY_TIMEOUT_S = 30.0
_SALVAGE = "keep the file for salvage (`sqlite3 FILE .recover`) and use another one"


@dataclass(frozen=True, slots=True)
class Layout:
    """What a kind of database is called, how it is recognised, and the SQL that creates it.

    ``upgrades[n]`` is the SQL that turns a file of version n into one of version n + 1.
    """

    kind: str
    application_id: int
    version: int
    script: str
    upgrades: Mapping[int, str] = field(default_factory=dict)


class Database:
    """One open database file. Safe to share between threads; statements run one at a time.

    Opening raises CorruptError (exit 7) for a file that is damaged, of another kind or from a newer version, and
    NotFoundError if ``read_only`` and missing. ``check=False`` skips the scan of the whole file (``quick_check``).
    """

    def __init__(self, path: Path, layout: Layout, read_only: bool = False, check: bool = True) -> None:
        self.path = path
        self._lock = threading.RLock()
        if not path.exists():
            if read_only:
                raise NotFoundError(f"there is no {layout.kind} at {path}", "check the path", path=str(path))
            _create(path, layout)
        if not path.is_file():
            raise CorruptError(f"{path} is not a file", "give the path of a database file", path=str(path))
        with _sqlite_errors(path):
            _upgrade(path, layout)
            self._connection = _connect(path, read_only)
            try:
                _check_layout(self._connection, path, layout)
                if not read_only:
                    _set_journal(self._connection, path)
                if check:
                    _quick_check(self._connection, path)
            except BaseException:
                self._connection.close()
                raise

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """All rows of a short query."""
        with self._lock, _sqlite_errors(self.path):
            return self._connection.execute(sql, values).fetchall()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One write transaction: committed and on the disk when the block ends, rolled back on an exception."""
        with self._lock, _sqlite_errors(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # a full disk has rolled back already
                    self._connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Closes the file; further calls fail."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def insert_sql(table: str, columns: Sequence[str]) -> str:
    """SQL that inserts one row; names come from our code, values are always bound."""
    return " ".join(["INSERT INTO", table, "(", ", ".join(columns), ") VALUES (", ", ".join("?" * len(columns)), ")"])


def _create(path: Path, layout: Layout) -> None:
    temporary = temporary_name(path)
    with storage_errors(path), _sqlite_errors(path):
        private_dir(path.parent)
        try:
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            with closing(sqlite3.connect(temporary, isolation_level=None)) as connection:
                connection.execute("PRAGMA synchronous=FULL")
                connection.executescript(
                    f"BEGIN; PRAGMA application_id={layout.application_id}; PRAGMA user_version={layout.version};"
                    f"{layout.script}; COMMIT;"
                )
            sync_path(temporary)
            with suppress(FileExistsError):  # another process was faster; its file is as good
                os.link(temporary, path)
            sync_path(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _connect(path: Path, read_only: bool) -> sqlite3.Connection:
    # A reader that may write the file opens it so and then forbids itself to: after a killed writer somebody must roll
    # the journal back, and a strictly read-only connection could only fail.
    writable = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    mode = "rw" if writable or not read_only else "ro"
    uri = f"{path.resolve().as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA synchronous=FULL")
    if read_only:
        connection.execute("PRAGMA query_only=ON")
    return connection


def _upgrade(path: Path, layout: Layout) -> None:
    """Brings a file of an older version up to date, in one transaction; leaves everything else to the checks."""
    if not layout.upgrades:
        return
    with closing(_connect(path, read_only=False)) as connection:
        if _upgradable(connection, layout) is None:
            return
        _check_size(connection, path)
        _set_journal(connection, path)
        connection.execute("BEGIN IMMEDIATE")
        while (version := _upgradable(connection, layout)) is not None:  # another process may have been faster
            for statement in filter(str.strip, layout.upgrades[version].split(";")):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={version + 1}")
        connection.execute("COMMIT")


def _upgradable(connection: sqlite3.Connection, layout: Layout) -> int | None:
    if connection.execute("PRAGMA application_id").fetchone()[0] != layout.application_id:
        return None
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    return version if version in layout.upgrades and version < layout.version else None


def _check_layout(connection: sqlite3.Connection, path: Path, layout: Layout) -> None:
    _check_size(connection, path)
    if connection.execute("PRAGMA application_id").fetchone()[0] != layout.application_id:
        raise CorruptError(f"{path} is not a {layout.kind}", "give the path of another file", path=str(path))
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != layout.version:
        raise CorruptError(
            f"{path} has schema version {version}; this synth-ray reads version {layout.version}",
            "use the synth-ray that wrote it, or another file",
            path=str(path),
        )
    with closing(sqlite3.connect(":memory:")) as model:
        model.executescript(layout.script)
        if _schema(model) != _schema(connection):
            raise CorruptError(f"{path} is damaged: its tables are not those of a {layout.kind}", _SALVAGE)


def _check_size(connection: sqlite3.Connection, path: Path) -> None:
    """SQLite reads a torn last page as if zeros followed; to us that is damage."""
    connection.execute("BEGIN")
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # from here to the end, no writer writes
        page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        size_bytes = path.stat().st_size
    finally:
        connection.execute("ROLLBACK")
    if size_bytes == 0 or size_bytes % page_bytes or size_bytes < pages * page_bytes:
        raise CorruptError(f"{path} is empty or cut off ({size_bytes} bytes)", _SALVAGE, path=str(path))


def _schema(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    return [tuple(row) for row in connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name")]


def _set_journal(connection: sqlite3.Connection, path: Path) -> None:
    if connection.execute("PRAGMA journal_mode=TRUNCATE").fetchone()[0] != "truncate":
        raise TemporaryError(f"{path} is in use with another journal mode", "close the other program, then try again")


def _quick_check(connection: sqlite3.Connection, path: Path) -> None:
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    broken = connection.execute("PRAGMA foreign_key_check").fetchone()
    if verdict != "ok" or broken:
        raise CorruptError(f"{path} is damaged: {verdict if verdict != 'ok' else 'rows are missing'}", _SALVAGE)


@contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _translated(path, error) from error


def _translated(path: Path, error: sqlite3.Error) -> Exception:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the class of an extended code
    details = {"path": str(path)}
    kinds: dict[int, SynthRayError] = {
        sqlite3.SQLITE_BUSY: TemporaryError(f"{path} is locked by another process", "try again later", **details),
        sqlite3.SQLITE_FULL: StorageError(f"cannot write {path}: the disk is full", "free some space", **details),
        sqlite3.SQLITE_IOERR: StorageError(f"cannot write {path}: {error}", "check the disk", **details),
        sqlite3.SQLITE_READONLY: StorageError(f"{path} is read-only", "choose another file", **details),
        sqlite3.SQLITE_CANTOPEN: StorageError(f"cannot open {path}: {error}", "check its folder", **details),
        sqlite3.SQLITE_CONSTRAINT: ConflictError(f"{path}: {error}", "use another id", **details),
        sqlite3.SQLITE_CORRUPT: CorruptError(f"{path} is damaged: {error}", _SALVAGE, **details),
        sqlite3.SQLITE_NOTADB: CorruptError(f"{path} is not a SQLite database", _SALVAGE, **details),
    }
    if "decode to UTF-8" in str(error):
        return CorruptError(f"{path} is damaged: {error}", _SALVAGE, **details)
    return kinds.get(code, error)
