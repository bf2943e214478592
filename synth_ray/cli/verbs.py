"""What the verbs do, apart from their options; the quickstart sequences the same functions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from synth_ray.cli.output import data, data_json, say

if TYPE_CHECKING:
    from synth_ray.cli.progress import Stages
    from synth_ray.core.config import Section
    from synth_ray.core.paths import Home
    from synth_ray.runtime.cluster import LocalCluster
    from synth_ray.runtime.job_client import JobClient, Submitted

OnEvent = Callable[[Mapping[str, Any]], None]
_CHECKED = {"EvalConfig": "eval", "RLConfig": "rl"}
"""Configurations with settings of a task, which only the task itself can check."""


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


def serve_locally(app_id: str, env_file: Path, port: int, trace_db: Path | None, as_json: bool) -> NoReturn:
    """Becomes the task app without Ray: its output, its signals and its exit code are then this command's."""
    from synth_ray.core.paths import app_root

    command = [sys.executable, "-m", "serve.local", app_id, "--port", str(port), "--env-file", str(env_file)]
    command += ["--trace-db", str(trace_db)] if trace_db else []
    command += ["--json"] if as_json else []
    path = os.pathsep.join(filter(None, [str(app_root()), os.environ.get("PYTHONPATH", "")]))
    os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": path})  # noqa: S606


def client(home: Home, env_file: Path) -> JobClient:
    """A client of the running local cluster; PrerequisiteError if there is none."""
    from synth_ray.runtime import cluster
    from synth_ray.runtime.job_client import JobClient

    return JobClient(cluster.require(home), home, env_file.resolve())


def check_config(
    model: type[Section], configs: Sequence[Path], sets: Sequence[str], dry_run: bool, as_json: bool = False
) -> bool:
    """Validates before anything starts; prints the resolved config for a dry run and says whether to go on."""
    from synth_ray.core.config import load_config

    resolved = load_config(model, configs, sets)
    for warning in resolved.warnings:
        say(f"warning: {warning}")
    if dry_run:
        if kind := _CHECKED.get(model.__name__):
            given = [*(f"--config={path}" for path in configs), *(f"--set={item}" for item in sets)]
            run_script("check", [kind, *given])
        if as_json:
            data_json("dry_run", resolved.as_dict())
        else:
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
    watched: Callable[[Submitted], OnEvent] | None = None,
) -> dict[str, Any]:
    """Submits a job and waits for its result; Ctrl-C stops the job first.

    ``on_event`` gets its events; ``watched`` makes such a function for the job that was submitted.
    """
    job = jobs.submit(kind, configs, sets, run_name, resume=resume)
    show = watched(job) if watched else on_event
    try:
        result = jobs.wait(job, show)
        if show and (event := job.files.last_event()):
            show(event)
        return {"job_id": job.job_id, **result}
    except (KeyboardInterrupt, SystemExit):
        say(f"stopping {job.job_id}")
        jobs.stop(job)
        if hint := _going_on(kind, run_name or job.job_id):
            say(f"what is finished is kept; go on with: {hint}")
        raise


def streamed(home: Home, stages: Stages, stage: str, on_event: OnEvent) -> Callable[[Submitted], OnEvent]:
    """For ``run``: shows a job's events, and one lasting line for every step of its training."""
    from synth_ray.cli.job_feed import JobFeed
    from synth_ray.records.registry import Registry

    def of_job(job: Submitted) -> OnEvent:
        with Registry(home.state_db, read_only=True) as registry:
            feed = JobFeed(home, registry.job(job.job_id), printed=False)

        def show(event: Mapping[str, Any]) -> None:
            for line in feed.lines():
                stages.line(stage, line)
            on_event(event)

        return show

    return of_job


def _going_on(kind: str, name: str) -> str:
    """The command that goes on with what was stopped; empty if there is nothing yet to go on with."""
    from synth_ray.core.paths import find_home

    if kind in ("rl", "sft"):
        return f"synth-ray train --type {kind} --resume {name}" if find_home().run(name).exists() else ""
    return f"synth-ray eval --resume {name}" if kind == "eval" else ""


def run_filter(home: Home, configs: Sequence[Path], sets: Sequence[str] = ()) -> dict[str, Any]:
    """Filters traces into a data set; needs no cluster."""
    from synth_ray.records.filter_run import run_filter as filter_traces

    return dict(filter_traces(configs, sets, home.project))


def run_script(name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The result of ``python -m jobs.NAME``, a script that needs no cluster; raises the script's own error.

    The script's last line on stdout is {"ok", "result" or "error", "exit_code"}; its stderr is ours.
    """
    from synth_ray.core.errors import JobFailed
    from synth_ray.core.paths import app_root, find_home
    from synth_ray.runtime.job_client import rebuild

    path = os.pathsep.join(filter(None, [str(app_root()), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", f"jobs.{name}", "--project", str(find_home().project), *arguments]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}, check=False
    )
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise JobFailed(f"jobs.{name} ended with code {done.returncode} and said nothing") from None
    if answer["ok"]:
        return dict(answer["result"])
    raise rebuild(answer["error"], int(answer["exit_code"]))
