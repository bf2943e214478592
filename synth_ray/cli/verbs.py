"""What the verbs do, apart from their options; the quickstart sequences the same functions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synth_ray.cli.output import data, say

if TYPE_CHECKING:
    from synth_ray.core.config import Section
    from synth_ray.core.paths import Home
    from synth_ray.runtime.cluster import LocalCluster
    from synth_ray.runtime.job_client import JobClient

OnEvent = Callable[[Mapping[str, Any]], None]


def ensure_cluster(home: Home, env_file: Path, port: int) -> tuple[LocalCluster, bool]:
    """The running local cluster, or a new one; and whether it is new."""
    from synth_ray.core.locks import one_at_a_time
    from synth_ray.core.secrets import RAY_TOKEN, ensure_env_file
    from synth_ray.runtime import cluster

    with one_at_a_time(home.state / "cluster.lock"):
        running = cluster.find(home)
        if running:
            return running, False
        return cluster.start(home, ensure_env_file(env_file)[RAY_TOKEN], port), True


def client(home: Home, env_file: Path) -> JobClient:
    """A client of the running local cluster; PrerequisiteError if there is none."""
    from synth_ray.runtime import cluster
    from synth_ray.runtime.job_client import JobClient

    return JobClient(cluster.require(home), home, env_file.resolve())


def check_config(model: type[Section], configs: Sequence[Path], sets: Sequence[str], dry_run: bool) -> bool:
    """Validates before anything starts; prints the resolved config for a dry run and says whether to go on."""
    from synth_ray.core.config import load_config

    resolved = load_config(model, configs, sets)
    if dry_run:
        data(json.dumps(resolved.as_dict(), indent=2))
    return not dry_run


def run(
    jobs: JobClient,
    kind: str,
    configs: Sequence[Path],
    sets: Sequence[str] = (),
    run_name: str = "",
    on_event: OnEvent | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Submits a job and waits for its result; Ctrl-C stops the job first."""
    job = jobs.submit(kind, configs, sets, run_name, resume=resume)
    try:
        return {"job_id": job.job_id, **jobs.wait(job, on_event)}
    except (KeyboardInterrupt, SystemExit):
        say(f"stopping {job.job_id}")
        jobs.stop(job)
        raise


def run_filter(home: Home, configs: Sequence[Path], sets: Sequence[str] = ()) -> dict[str, Any]:
    """Filters traces into a data set; needs no cluster."""
    from synth_ray.records.filter_run import run_filter as filter_traces

    return dict(filter_traces(configs, sets, home.project))
