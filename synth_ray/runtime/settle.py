"""Jobs that could not say how they ended: they were killed, or before they had begun, or with their cluster."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from synth_ray.core.errors import ConflictError
from synth_ray.core.paths import Home
from synth_ray.records.job_files import JobFiles
from synth_ray.records.registry import Job, Registry
from synth_ray.records.states import State

if TYPE_CHECKING:
    from synth_ray.runtime.cluster import LocalCluster


EVERY_S = 5.0


@dataclass(frozen=True)
class _End:
    kind: str
    message: str
    exit_code: int


class Settler:
    """``settle`` for those who ask often: once in ``EVERY_S``, and nobody waits for another one's."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._next = 0.0

    def settle(self, home: Home) -> None:
        """Settles, unless that has just been done or is being done."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            if time.monotonic() >= self._next:
                settle(home)
                self._next = time.monotonic() + EVERY_S
        finally:
            self._lock.release()


def settle(home: Home) -> None:
    """Gives every unfinished job that cannot be running any more its final status."""
    if not home.state_db.exists():
        return
    with Registry(home.state_db) as registry:
        unfinished = registry.unfinished_jobs()
        if not unfinished:
            return
        from synth_ray.runtime import cluster

        running = cluster.find(home)
        for job in unfinished:
            _settle(registry, job, JobFiles(home.jobs / job.job_id), running)


def _settle(registry: Registry, job: Job, files: JobFiles, running: LocalCluster | None) -> None:
    if files.result() is None:
        how = _ended(job, files, running)
        if how and files.result() is None:  # a job leaves its result before Ray says that its process has ended
            files.failed({"kind": how.kind, "message": how.message}, how.exit_code)
    result = files.result()
    if result is None or result["ok"]:
        return
    stopped = result["error"].get("kind") == "cancelled"
    with suppress(ConflictError):  # it has just ended by itself
        registry.set_job_status(
            job.job_id, State.CANCELLED if stopped else State.FAILED, str(result["error"].get("message", ""))
        )


def _ended(job: Job, files: JobFiles, running: LocalCluster | None) -> _End | None:
    """How a job without a result ended; None if it may be running."""
    if not files.cluster_id:
        return None  # it came another way and nobody here can know
    if running is None or files.cluster_id != running.cluster_id:
        return _End("internal", "the cluster that ran it is gone", 1)
    end = running.job_end(job.job_id)
    if end == "STOPPED":
        return _End("cancelled", "the job was stopped", 143)
    return _End("internal", f"its process ended as {end} without a result", 1) if end else None


def run_folder(home: Home, job: Job) -> Path:
    """The folder of an RL job's run."""
    return Path(job.run_dir) if job.run_dir else home.runs / job.name
