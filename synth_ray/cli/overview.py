"""status summary: everything at a glance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synth_ray.core.paths import Home


def overview(home: Home) -> dict[str, Any]:
    """The cluster, how many jobs are in which status, and the newest job, model and runs."""
    from synth_ray.records.registry import Registry
    from synth_ray.records.run_summary import newest_runs
    from synth_ray.runtime import cluster
    from synth_ray.runtime.settle import settle

    running = cluster.find(home)
    value: dict[str, Any] = {
        "cluster": running.dashboard if running else None,
        "state": str(home.state),
        "project": str(home.project),
        "jobs": {},
        "newest_job": None,
        "newest_model": None,
        "files": 0,
    }
    if home.state_db.exists():
        settle(home)
        with Registry(home.state_db, read_only=True) as registry:
            jobs, models = registry.jobs(limit=1), registry.models(limit=1)
            value["jobs"] = registry.job_counts()
            value["newest_job"] = jobs[0].job_id if jobs else None
            value["newest_model"] = models[0].model_id if models else None
            value["files"] = len(registry.files(limit=100_000))
    value["runs"] = {run.name: run.state for run in newest_runs(home, 5)}
    return value
