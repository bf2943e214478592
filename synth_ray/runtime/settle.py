"""Jobs that could not say how they ended: their cluster is gone, or they ended before they had begun."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from synth_ray.core.errors import ConflictError
from synth_ray.core.paths import Home
from synth_ray.records.job_files import JobFiles
from synth_ray.records.registry import Job, Registry
from synth_ray.records.states import State

_GONE = "the cluster that ran it is gone"


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
            _settle(registry, job, JobFiles(home.jobs / job.job_id), running.cluster_id if running else "")


def _settle(registry: Registry, job: Job, files: JobFiles, running: str) -> None:
    result = files.result()
    if result is None and files.cluster_id in ("", running):
        return  # it runs, or it came another way and nobody here can know
    if result is None:
        files.failed({"kind": "internal", "message": _GONE}, 1)
    with suppress(ConflictError):  # it has just ended by itself
        if result is None:
            registry.set_job_status(job.job_id, State.FAILED, _GONE)
        elif not result["ok"]:
            stopped = result["error"].get("kind") == "cancelled"
            registry.set_job_status(
                job.job_id, State.CANCELLED if stopped else State.FAILED, str(result["error"].get("message", ""))
            )


def run_folder(home: Home, job: Job) -> Path:
    """The folder of an RL job's run."""
    return Path(job.run_dir) if job.run_dir else home.runs / job.name
