"""Run folders: one folder per training run holds its configuration, state, metrics, rollouts and checkpoints.

Layout: ``run.json`` (id, config hash, state, attempts, time stamps), ``config.resolved.json`` (the configuration, its
SHA-256 and where every value came from), ``metrics.jsonl``, ``rollouts/``, ``checkpoints/``, ``logs/attempt_N/`` with
``logs/latest``. Invariants: a folder appears complete, by one rename, so of two runs with one name exactly one wins;
``run.json`` is replaced atomically, and one process at a time changes it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from synth_ray.core.errors import ConflictError, CorruptError, DeadlineError, NotFoundError
from synth_ray.core.paths import safe_name
from synth_ray.core.waiting import wait_for
from synth_ray.records.clock import utc_now
from synth_ray.records.disk import TEMPORARY_MARK, storage_errors, sync_path, temporary_name
from synth_ray.records.run_record import (
    Attempt,
    RunRecord,
    config_sha256,
    differing_keys,
    read_config,
    read_record,
    write_config,
    write_record,
)
from synth_ray.records.states import State, check_transition

__all__ = ["Attempt", "RunDir", "RunRecord", "State", "config_sha256", "differing_keys", "run_names", "unique_name"]

_RECORD = "run.json"
_CONFIG = "config.resolved.json"
_CHANGE_TIMEOUT_S = 30.0


def unique_name(prefix: str) -> str:
    """A name for a run that got none: ``rl-20261122-013000-ab12`` (UTC, and random so that two at once differ)."""
    return f"{prefix}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def run_names(runs: Path) -> list[str]:
    """Names of the run folders in ``runs``, sorted."""
    return sorted(path.parent.name for path in runs.glob(f"[!.]*/{_RECORD}") if TEMPORARY_MARK not in path.parent.name)


class RunDir:
    """A run folder that exists. Make one with ``create``, ``load`` or ``resume``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(
        cls,
        runs: Path,
        name: str,
        config: Mapping[str, Any],
        sources: Mapping[str, str] | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> RunDir:
        """Makes ``<runs>/<name>/``. ``sources`` maps dotted configuration keys to where their value came from.

        Raises ConflictError (exit 5) if the name is in use, ConfigError for an unusable name, StorageError.
        """
        path = runs / safe_name(name)
        temporary = temporary_name(runs / f".{name}")
        try:
            with storage_errors(path):
                _fill(temporary, name, config, sources or {}, about or {})
                _appear(temporary, path, config)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return cls(path)

    @classmethod
    def load(cls, runs: Path, name: str) -> RunDir:
        """The existing run ``name``. Raises NotFoundError, or CorruptError if its files do not verify."""
        run = cls(runs / safe_name(name))
        if not (run.path / _RECORD).exists():
            known = ", ".join(run_names(runs)[-5:])
            raise NotFoundError(f"there is no run {name!r} in {runs}", f"runs there: {known}" if known else "")
        run.record()
        run.config()
        return run

    @classmethod
    def resume(cls, runs: Path, name: str, config: Mapping[str, Any]) -> RunDir:
        """The existing run ``name`` if it has this very configuration.

        Raises ConflictError (exit 5) that lists the keys that differ; also NotFoundError, CorruptError.
        """
        run = cls.load(runs, name)
        changed = differing_keys(run.config(), config)
        if changed:
            raise ConflictError(
                f"run {name!r} has another configuration; these keys differ: {', '.join(changed)}",
                "resume with the saved configuration, or choose another --run-name",
                keys=changed,
            )
        return run

    @property
    def name(self) -> str:
        """The name of the run and of its folder."""
        return self.path.name

    @property
    def rollouts(self) -> Path:
        """Folder of the Parquet files, one pair per step."""
        return self.path / "rollouts"

    @property
    def checkpoints(self) -> Path:
        """Folder of the published checkpoints."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """The metrics log."""
        return self.path / "metrics.jsonl"

    @property
    def logs(self) -> Path:
        """Folder with one folder of logs per attempt; ``latest`` points to the newest."""
        return self.path / "logs"

    def record(self) -> RunRecord:
        """What ``run.json`` says now. Raises CorruptError."""
        return read_record(self.path / _RECORD)

    def config(self) -> dict[str, Any]:
        """The resolved configuration. Raises CorruptError if it does not match its SHA-256."""
        return read_config(self.path / _CONFIG)

    def start_attempt(self, ray_job_id: str = "") -> Attempt:
        """Begins the next attempt: state STARTING and a fresh log folder. Raises ConflictError if the run succeeded.

        Legal from every other state, because a killed attempt could not say that it ended; ``hold`` first.
        """
        with self._changing() as record:
            if record.state is State.SUCCEEDED:
                raise ConflictError(f"run {self.name!r} has succeeded already", "choose another --run-name")
            now = utc_now()
            attempt = Attempt(len(record.attempts) + 1, now, State.STARTING, now, ray_job_id)
            attempts = (*map(_ended, record.attempts), attempt)
            self._log_folder(attempt.number)
            changed = replace(record, state=State.STARTING, attempts=attempts, error=None, updated_at=now)
            write_record(self.path / _RECORD, changed)
        return attempt

    def set_state(self, state: State, error: str | None = None) -> RunRecord:
        """Moves the run and its current attempt to ``state``; ``error`` says why. Raises ConflictError if illegal."""
        with self._changing() as record:
            check_transition(f"run {self.name!r}", record.state, state)
            now = utc_now()
            current = tuple(replace(one, state=state, updated_at=now) for one in record.attempts[-1:])
            attempts = (*record.attempts[:-1], *current)
            changed = replace(record, state=state, attempts=attempts, error=error, updated_at=now)
            write_record(self.path / _RECORD, changed)
        return changed

    @contextmanager
    def attempt(self, ray_job_id: str = "") -> Iterator[None]:
        """Holds the run for its next attempt and records how that ends: succeeded, failed or, if stopped, cancelled.

        Raises ConflictError if the run succeeded already, or runs.
        """
        with self.hold():
            self.start_attempt(ray_job_id)
            self.set_state(State.RUNNING)
            try:
                yield
            except Exception as error:
                self.set_state(State.FAILED, str(error))
                raise
            except BaseException:
                self.set_state(State.CANCELLED)
                raise
            self.set_state(State.SUCCEEDED)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keeps every other process from running this run; the kernel lets go when this process ends, however it ends.

        Raises ConflictError if it runs already.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(_locked(self.path / ".running", timeout_s=0.0))
            except DeadlineError as error:
                raise ConflictError(f"run {self.name!r} is running already", "wait for it, or cancel it") from error
            yield

    @contextmanager
    def _changing(self) -> Iterator[RunRecord]:
        with _locked(self.path / ".changing", _CHANGE_TIMEOUT_S):
            yield self.record()

    def _log_folder(self, number: int) -> None:
        folder = self.logs / f"attempt_{number}"
        folder.mkdir(parents=True, exist_ok=True)
        link = temporary_name(self.logs / "latest")
        link.symlink_to(folder.name)
        link.replace(self.logs / "latest")


def _ended(attempt: Attempt) -> Attempt:
    """An attempt that another one follows: if it never said how it ended, it was killed."""
    return attempt if attempt.state.final else replace(attempt, state=State.FAILED)


def _fill(
    folder: Path, name: str, config: Mapping[str, Any], sources: Mapping[str, str], about: Mapping[str, Any]
) -> None:
    for part in ("logs", "rollouts", "checkpoints"):
        (folder / part).mkdir(parents=True)
    write_config(folder / _CONFIG, config, sources)
    now = utc_now()
    run_id = f"run_{secrets.token_hex(8)}"
    record = RunRecord(run_id, name, config_sha256(config), State.CREATED, now, now, about=dict(about))
    write_record(folder / _RECORD, record)


def _appear(temporary: Path, path: Path, config: Mapping[str, Any]) -> None:
    try:
        temporary.rename(path)  # succeeds only if the name is free or an empty folder: ours never is empty
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise _name_in_use(path, config) from error
    sync_path(path.parent)


def _name_in_use(path: Path, config: Mapping[str, Any]) -> ConflictError:
    same = False
    with suppress(CorruptError):
        same = not differing_keys(RunDir(path).config(), config)
    which = "this" if same else "another"
    return ConflictError(
        f"the name {path.name!r} is in use by a run with {which} configuration",
        f"choose another --run-name, or go on with it: --resume {path.name}",
        path=str(path),
    )


@contextmanager
def _locked(path: Path, timeout_s: float) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        wait_for(f"the lock {path}", lambda: _try_lock(descriptor), timeout_s, interval_s=0.01)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool | None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    return True
