"""train logs, train wait, logs: what jobs do, read from our own files, so that no cluster is needed."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from synth_ray.cli import options
from synth_ray.cli.output import clean, data, data_json, say, table

if TYPE_CHECKING:
    from synth_ray.core.paths import Home
    from synth_ray.records.registry import Job

_POLL_S = 0.5
follow_option = click.option("-f", "--follow", is_flag=True, help="Go on until the job ends.")
tail_option = click.option("-n", "--tail", type=click.IntRange(0), help="Only the last lines.")


@click.command("logs")
@click.option("--run-name", required=True, help="The run, or a job id.")
@follow_option
@tail_option
def train_logs(run_name: str, follow: bool, tail: int | None) -> None:
    """Print what a run has printed, and its numbers step by step.

    \b
    synth-ray train logs --run-name my-run
    synth-ray train logs --run-name my-run -f
    """
    show_logs(run_name, follow, tail)


@click.command("logs")
@click.argument("job_or_run")
@follow_option
@tail_option
def logs(job_or_run: str, follow: bool, tail: int | None) -> None:
    """Print what a job has printed, and its numbers step by step; also of clusters that are gone.

    \b
    synth-ray logs job_0123456789abcdef
    synth-ray logs my-run -f
    """
    show_logs(job_or_run, follow, tail)


@click.command("wait")
@click.argument("names", nargs=-1)
@click.option("--run-name", "run_names", multiple=True, help="The run to wait for; repeatable.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(0), help="Give up after so many seconds (exit code 124).")
@options.json_option
def train_wait(names: tuple[str, ...], run_names: tuple[str, ...], timeout_s: float | None, as_json: bool) -> None:
    """Wait until jobs have ended. Exit code 0: all succeeded; 1: one failed or was cancelled; 124: timeout.

    \b
    synth-ray train wait --run-name run-a --run-name run-b
    synth-ray train wait job_0123456789abcdef --timeout 3600
    """
    from synth_ray.core.errors import DeadlineError
    from synth_ray.core.paths import find_home

    wanted = [*names, *run_names]
    if not wanted:
        raise click.UsageError("say what to wait for: --run-name NAME, or a job id")
    home = find_home()
    ids = [find_job(home, name).job_id for name in wanted]
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        jobs = [find_job(home, job_id) for job_id in ids]
        running = [job for job in jobs if not job.status.final]
        if not running:
            break
        if deadline is not None and time.monotonic() >= deadline:
            names_left = ", ".join(job.name for job in running)
            raise DeadlineError(f"{names_left} did not end within {timeout_s:g} s", "they go on; wait again")
        time.sleep(_POLL_S)
    _report(jobs, as_json)
    if any(job.status != "SUCCEEDED" for job in jobs):
        raise click.exceptions.Exit(1)


def find_job(home: Home, name: str) -> Job:
    """The job with this id, or the newest of the run with this name, with an up-to-date status."""
    from synth_ray.core.errors import NotFoundError
    from synth_ray.records.registry import Registry
    from synth_ray.runtime.settle import settle

    if not home.state_db.exists():
        raise NotFoundError(f"there is no job {name!r}", "no job has run here yet; start with: synth-ray quickstart")
    settle(home)
    with Registry(home.state_db, read_only=True) as registry:
        return registry.find_job(name)


def saved_run(home: Home, name: str, kind: str) -> tuple[str, tuple[Path, ...]]:
    """Name and saved configuration of a run of type ``kind``, which may be given by a job of it."""
    from synth_ray.core.errors import ConfigError, NotFoundError
    from synth_ray.records.runs import RunDir

    if not home.run(name).exists():
        with suppress(NotFoundError):  # The next line says better that nobody knows it.
            name = find_job(home, name).name
    run = RunDir.load(home.runs, name)
    its = "sft" if "job" in run.config() else "rl"
    if its != kind:
        raise ConfigError(f"run {name!r} is of type {its}", f"go on with: synth-ray train --type {its} --resume {name}")
    return name, (run.path / "config.resolved.json",)


def show_logs(name: str, follow: bool, tail: int | None) -> None:
    """Prints the lines of a job, and with ``follow`` new ones until it ends."""
    from synth_ray.cli.job_feed import JobFeed
    from synth_ray.cli.job_feed import follow as follow_lines
    from synth_ray.core.paths import find_home

    home = find_home()
    job = find_job(home, name)
    if follow:
        ended = follow_lines(home, job.job_id, lambda line: data(clean(line)))
        say(f"{ended.job_id}: {ended.status}{': ' + ended.error if ended.error else ''}")
        return
    feed = JobFeed(home, job)
    lines = [*feed.lines(), *filter(None, [feed.rest()])]
    for line in lines if tail is None else lines[len(lines) - min(tail, len(lines)) :]:
        data(clean(line))
    if not lines:
        say(f"{job.job_id} ({job.status}) has said nothing yet")
    if job.error:
        say(f"{job.status}: {job.error}")


def _report(jobs: list[Job], as_json: bool) -> None:
    if as_json:
        data_json("train.wait", [asdict(job) for job in jobs])
        return
    data(table(("job", "name", "status", "error"), [(j.job_id, j.name, j.status, j.error or "") for j in jobs]))


def check_name_is_free(home: Home, name: str, resume: bool) -> None:
    """Raises ConflictError (exit 5) if a run of that name is there, or running, and shall not be resumed."""
    from synth_ray.core.errors import ConflictError, NotFoundError

    folder = home.run(name)
    try:
        job = find_job(home, name)
    except NotFoundError:
        job = None
    if job and not job.status.final:
        raise ConflictError(f"run {name!r} is running already ({job.job_id})", f"see: synth-ray logs {name} -f")
    if folder.exists() and not resume:
        raise ConflictError(
            f"the name {name!r} is in use by a run in {folder}",
            f"choose another --run-name, or go on with that run: --resume {name}",
        )
    if resume and not folder.exists():
        raise NotFoundError(f"there is no run {name!r} in {folder.parent}", "start it without --resume")
