"""The registry: which jobs ran, which models came out of them, and which files were uploaded.

Schema version 2 of ``state.db`` (file rules in ``database.py``):

* ``jobs``: ``job_id`` (key), ``type`` (sft, rl, eval, deploy, ...), ``name``, ``status`` (see ``states.py``),
  ``created_at``, ``updated_at``, ``config_sha256``, ``run_dir``, ``submission_id`` (at most one job each, or empty),
  ``error`` (text or NULL), ``result`` (JSON object or NULL).
* ``models``: ``model_id`` (key), ``base`` (parent model id or name), ``kind`` (full or adapter), ``path``,
  ``base_path`` (folder of the full model that an adapter sits on, else empty), ``digest``, ``job_id``, ``created_at``,
  ``metrics`` (JSON object).
* ``files`` (since version 2): ``file_id`` (key), ``filename``, ``purpose``, ``size_bytes``, ``sha256``, ``created_at``.

Newest means added last; the time stamps are for people.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Self

from synth_ray.core.errors import ConflictError, CorruptError, NotFoundError
from synth_ray.core.hashing import canonical_json
from synth_ray.records.clock import utc_now
from synth_ray.records.database import Database, Layout, insert_sql
from synth_ray.records.model_ids import ModelId, parse_model_id
from synth_ray.records.rollout_rows import storable
from synth_ray.records.states import State, check_transition

__all__ = ["LAYOUT", "Job", "Model", "ModelId", "Registry", "StoredFile", "new_job_id", "parse_model_id"]

_FILES = """
CREATE TABLE files (
    file_id TEXT PRIMARY KEY NOT NULL, filename TEXT NOT NULL, purpose TEXT NOT NULL, size_bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL, created_at TEXT NOT NULL
) STRICT;
"""
LAYOUT = Layout(
    kind="registry",
    application_id=0x53525354,  # "SRST"
    version=2,
    upgrades={1: _FILES},
    script="""
CREATE TABLE jobs (
    job_id TEXT PRIMARY KEY NOT NULL, type TEXT NOT NULL, name TEXT NOT NULL, status TEXT NOT NULL,
    created_at TEXT NOT NULL, updated_at TEXT NOT NULL, config_sha256 TEXT NOT NULL, run_dir TEXT NOT NULL,
    submission_id TEXT NOT NULL, error TEXT, result TEXT
) STRICT;
CREATE UNIQUE INDEX jobs_by_submission ON jobs (submission_id) WHERE submission_id <> '';
CREATE TABLE models (
    model_id TEXT PRIMARY KEY NOT NULL, base TEXT NOT NULL, kind TEXT NOT NULL CHECK (kind IN ('full', 'adapter')),
    path TEXT NOT NULL, base_path TEXT NOT NULL, digest TEXT NOT NULL, job_id TEXT NOT NULL, created_at TEXT NOT NULL,
    metrics TEXT NOT NULL
) STRICT;
"""
    + _FILES,
)


@dataclass(frozen=True, slots=True)
class Job:
    """One job. ``submission_id`` is what Ray (or an idempotent client) calls it; ``result`` is set when it is done."""

    job_id: str
    type: str
    name: str
    status: State
    created_at: str
    updated_at: str
    config_sha256: str = ""
    run_dir: str = ""
    submission_id: str = ""
    error: str | None = None
    result: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """One model; ``digest`` is the SHA-256 of its weights. An adapter sits on the full model in ``base_path``."""

    model_id: str
    base: str
    kind: Literal["full", "adapter"]
    path: str
    digest: str
    job_id: str
    base_path: str = ""
    created_at: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One uploaded file; its bytes are in the state folder, under their SHA-256."""

    file_id: str
    filename: str
    purpose: str
    size_bytes: int
    sha256: str
    created_at: str


_JOB_COLUMNS = tuple(Job.__dataclass_fields__)
_MODEL_COLUMNS = tuple(Model.__dataclass_fields__)
_FILE_COLUMNS = tuple(StoredFile.__dataclass_fields__)


def new_job_id() -> str:
    """A fresh job id: ``job_`` and 16 hex digits."""
    return f"job_{secrets.token_hex(8)}"


class Registry:
    """The registry at ``path``; created (mode 0600) if missing, unless ``read_only``.

    Raises CorruptError (exit 7) if the file is damaged or not ours, NotFoundError if ``read_only`` and missing.
    """

    def __init__(self, path: Path, read_only: bool = False) -> None:
        self.path = path
        self._database = Database(path, LAYOUT, read_only)

    def create_job(
        self,
        type: str,
        name: str,
        config_sha256: str = "",
        run_dir: str = "",
        submission_id: str = "",
        job_id: str = "",
    ) -> Job:
        """Records a new job as CREATED, under ``job_id`` or a fresh id.

        A ``submission_id`` that is known returns the job that has it, so a repeated submission makes one job; it raises
        ConflictError if that job has another type, name or configuration. So does a ``job_id`` that is in use.
        """
        now = utc_now()
        job = Job(job_id or new_job_id(), type, name, State.CREATED, now, now, config_sha256, run_dir, submission_id)
        with self._database.writing() as connection:
            existing = _submitted(connection, submission_id) or _row(connection, "jobs", "job_id", job.job_id)
            if existing is None:
                connection.execute(insert_sql("jobs", _JOB_COLUMNS), _job_values(job))
                return job
        return self._same_job(existing, job)

    def claim_job(self, job_id: str, type: str, name: str, config_sha256: str) -> Job:
        """The record that the submitter of a job made, or a new one: the job itself begins.

        Raises ConflictError if the id belongs to another job or to one that has begun already.
        """
        now = utc_now()
        job = Job(job_id, type, name, State.CREATED, now, now, config_sha256)
        with self._database.writing() as connection:
            row = _row(connection, "jobs", "job_id", job_id)
            if row is None:
                connection.execute(insert_sql("jobs", _JOB_COLUMNS), _job_values(job))
            elif (row["type"], row["name"], row["status"]) != (type, name, State.CREATED.value):
                raise ConflictError(f"{job_id} is another job, or has begun already", "submit under another id")
            else:
                connection.execute("UPDATE jobs SET config_sha256 = ? WHERE job_id = ?", (config_sha256, job_id))
        return self.job(job_id)

    def set_job_status(
        self,
        job_id: str,
        status: State,
        error: str | None = None,
        result: Mapping[str, Any] | None = None,
        submission_id: str | None = None,
    ) -> Job:
        """Moves a job to ``status``; None leaves the other values as they are. Repeating a status is allowed.

        Raises NotFoundError, or ConflictError for a transition that ``states.py`` does not list: final is final.
        """
        with self._database.writing() as connection:
            row = _row(connection, "jobs", "job_id", job_id)
            if row is None:
                raise self._unknown("job", job_id)
            check_transition(f"job {job_id}", self._job(row).status, status)
            connection.execute(
                "UPDATE jobs SET status = ?, updated_at = ?, error = coalesce(?, error), result = coalesce(?, result),"
                " submission_id = coalesce(?, submission_id) WHERE job_id = ?",
                (status.value, utc_now(), error and storable(error), _json_or_none(result), submission_id, job_id),
            )
        return self.job(job_id)

    def job(self, job_id: str) -> Job:
        """The job with this id. Raises NotFoundError that names similar ids."""
        rows = self._database.rows("SELECT * FROM jobs WHERE job_id = ?", (job_id,))
        if not rows:
            raise self._unknown("job", job_id)
        return self._job(rows[0])

    def jobs(self, limit: int = 20, type: str = "", name: str = "", status: str = "") -> list[Job]:
        """The newest jobs first, of one type, with one name, in one status, as far as given."""
        rows = self._database.rows(
            "SELECT * FROM jobs WHERE (?1 = '' OR type = ?1) AND (?2 = '' OR name = ?2) AND (?3 = '' OR status = ?3)"
            " ORDER BY rowid DESC LIMIT ?4",
            (type, name, status, limit),
        )
        return [self._job(row) for row in rows]

    def unfinished_jobs(self) -> list[Job]:
        """Jobs that did not say how they ended, oldest first."""
        ends = [state.value for state in State if state.final]
        sql = "SELECT * FROM jobs WHERE status NOT IN (SELECT value FROM json_each(?)) ORDER BY rowid"
        return [self._job(row) for row in self._database.rows(sql, (json.dumps(ends),))]

    def find_job(self, name: str, type: str = "") -> Job:
        """The job with this id, else the newest with this name. Raises NotFoundError that names similar ones."""
        rows = self._database.rows(
            "SELECT * FROM jobs WHERE (job_id = ?1 OR name = ?1) AND (?2 = '' OR type = ?2)"
            " ORDER BY job_id = ?1 DESC, rowid DESC LIMIT 1",
            (name, type),
        )
        if not rows:
            raise self._unknown("job", name)
        return self._job(rows[0])

    def job_counts(self) -> dict[str, int]:
        """How many jobs are in each status."""
        return {row[0]: row[1] for row in self._database.rows("SELECT status, count(*) FROM jobs GROUP BY status")}

    def add_model(self, model: Model) -> Model:
        """Records a model; adding it again is a no-op. Raises ConflictError if the id has other content."""
        stamped = _with_time(model)
        with self._database.writing() as connection:
            row = _row(connection, "models", "model_id", model.model_id)
            if row is None:
                connection.execute(insert_sql("models", _MODEL_COLUMNS), _model_values(stamped))
                return stamped
        existing = self._model(row)
        if (existing.digest, existing.path, existing.base) != (model.digest, model.path, model.base):
            raise ConflictError(f"model {model.model_id} exists with other content", "train under another job id")
        return existing

    def model(self, model_id: str) -> Model:
        """The model with this id. Raises NotFoundError that names similar ids."""
        rows = self._database.rows("SELECT * FROM models WHERE model_id = ?", (model_id,))
        if not rows:
            raise self._unknown("model", model_id)
        return self._model(rows[0])

    def models(self, limit: int = 20) -> list[Model]:
        """The newest models first."""
        rows = self._database.rows("SELECT * FROM models ORDER BY rowid DESC LIMIT ?", (limit,))
        return [self._model(row) for row in rows]

    def add_file(self, filename: str, purpose: str, size_bytes: int, sha256: str) -> StoredFile:
        """Records an uploaded file under an id made of its digest; the same bytes are the same file.

        Uploaded again, it has the later name and purpose.
        """
        new = StoredFile(f"file-{sha256[:24]}", filename, purpose, size_bytes, sha256, utc_now())
        with self._database.writing() as connection:
            values = tuple(getattr(new, column) for column in _FILE_COLUMNS)
            again = " ON CONFLICT (file_id) DO UPDATE SET filename = excluded.filename, purpose = excluded.purpose"
            connection.execute(insert_sql("files", _FILE_COLUMNS) + again, values)
        return self.file(new.file_id)

    def file(self, file_id: str) -> StoredFile:
        """The uploaded file with this id. Raises NotFoundError that names similar ids."""
        rows = self._database.rows("SELECT * FROM files WHERE file_id = ?", (file_id,))
        if not rows:
            raise self._unknown("file", file_id)
        return StoredFile(**dict(rows[0]))

    def files(self, limit: int = 20, purpose: str = "") -> list[StoredFile]:
        """The newest uploads first, of one purpose if given."""
        sql = "SELECT * FROM files WHERE ?1 = '' OR purpose = ?1 ORDER BY rowid DESC LIMIT ?2"
        return [StoredFile(**dict(row)) for row in self._database.rows(sql, (purpose, limit))]

    def lineage(self, model_id: str) -> list[Model]:
        """The model, its parent, the parent's parent, ... as far as they are registered.

        The last one's ``base`` is the name of a model that was not made here. Raises NotFoundError for the first.
        """
        chain = [self.model(model_id)]
        while parents := self._parents(chain[-1].base, {model.model_id for model in chain}):
            chain.append(parents[0])
        return chain

    def close(self) -> None:
        """Closes the file."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _parents(self, base: str, seen: set[str]) -> list[Model]:
        rows = self._database.rows("SELECT * FROM models WHERE model_id = ?", (base,))
        return [self._model(row) for row in rows if base not in seen]

    def _same_job(self, row: sqlite3.Row, wanted: Job) -> Job:
        job = self._job(row)
        same = (job.type, job.name, job.config_sha256) == (wanted.type, wanted.name, wanted.config_sha256)
        if not (same and wanted.submission_id == job.submission_id != ""):
            raise ConflictError(f"{job.job_id} is another job", "submit under another id", job_id=job.job_id)
        return job

    def _unknown(self, noun: Literal["job", "model", "file"], wanted: str) -> NotFoundError:
        sql = {
            "job": "SELECT job_id FROM jobs UNION SELECT name FROM jobs",
            "model": "SELECT model_id FROM models",
            "file": "SELECT file_id FROM files",
        }[noun]
        known = [row[0] for row in self._database.rows(sql)]
        same_job = [one for one in known if ":job_" in wanted and one.endswith(f":{wanted.rpartition(':')[2]}")]
        similar = same_job or get_close_matches(wanted, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(similar)}?" if similar else f"`synth-ray status {noun}s` lists them"
        return NotFoundError(f"there is no {noun} {wanted!r}", hint, similar=similar)

    def _job(self, row: sqlite3.Row) -> Job:
        return Job(**self._decoded(row, status=State, result=_from_json))

    def _model(self, row: sqlite3.Row) -> Model:
        return Model(**self._decoded(row, metrics=json.loads))

    def _decoded(self, row: sqlite3.Row, **decoders: Any) -> dict[str, Any]:
        try:
            return {name: decoders.get(name, _as_is)(row[name]) for name in tuple(row.keys())}
        except ValueError as error:
            raise CorruptError(
                f"{self.path} is damaged: {error}", "restore it from a copy", path=str(self.path)
            ) from error


def _row(connection: sqlite3.Connection, table: str, column: str, value: str) -> sqlite3.Row | None:
    sql = " ".join(["SELECT * FROM", table, "WHERE", column, "= ?"])
    row: sqlite3.Row | None = connection.execute(sql, (value,)).fetchone()
    return row


def _submitted(connection: sqlite3.Connection, submission_id: str) -> sqlite3.Row | None:
    return _row(connection, "jobs", "submission_id", submission_id) if submission_id else None


def _job_values(job: Job) -> Sequence[Any]:
    values = {name: getattr(job, name) for name in _JOB_COLUMNS}
    return tuple({**values, "status": job.status.value, "result": _json_or_none(job.result)}.values())


def _model_values(model: Model) -> Sequence[Any]:
    values = {name: getattr(model, name) for name in _MODEL_COLUMNS}
    return tuple({**values, "metrics": canonical_json(dict(model.metrics))}.values())


def _with_time(model: Model) -> Model:
    return model if model.created_at else replace(model, created_at=utc_now())


def _json_or_none(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else canonical_json(dict(value))


def _from_json(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _as_is(value: Any) -> Any:
    return value
