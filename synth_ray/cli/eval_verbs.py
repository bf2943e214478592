"""eval diff: two evaluations on the same seeds; and what `eval --resume` goes on with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from synth_ray.cli import options
from synth_ray.cli.output import data, data_json, say, table
from synth_ray.cli.train_verbs import find_job

if TYPE_CHECKING:
    from synth_ray.core.paths import Home
    from synth_ray.records.eval_diff import Difference, EvalDiff
    from synth_ray.records.registry import Job
    from synth_ray.records.sessions import Session


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--resamples", type=click.IntRange(100), default=10_000, show_default=True, help="Of the bootstrap.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the bootstrap.")
@options.json_option
def diff(a: str, b: str, resamples: int, seed: int, as_json: bool) -> None:
    """Is B better than A? Same seeds, paired; with a bootstrap interval and a table of achievements.

    A and B are jobs of evaluations, or models: then their newest evaluation counts.

    \b
    synth-ray eval diff job_0123456789abcdef job_fedcba9876543210
    synth-ray eval diff fft:crafter-tiny:job_... rl:crafter-tiny:job_...
    """
    from synth_ray.core.paths import find_home
    from synth_ray.records.eval_diff import eval_diff

    home = find_home()
    job_a, job_b = evaluation(home, a), evaluation(home, b)
    found = eval_diff(_sessions(job_a), _sessions(job_b), resamples, seed)
    if as_json:
        sides = {"a": _side(job_a), "b": _side(job_b), "resamples": resamples, "seed": seed}
        data_json("eval.diff", {**sides, **asdict(found)})
        return
    _print(found, job_a, job_b)


def evaluation(home: Home, name: str) -> Job:
    """The evaluation that a job id means, or the newest one of a model."""
    from synth_ray.core.errors import JobFailed, NotFoundError
    from synth_ray.records.registry import Registry

    if not home.state_db.exists():
        raise NotFoundError(f"there is no evaluation {name!r}", "run one with: synth-ray eval")
    with Registry(home.state_db, read_only=True) as registry:
        evals = registry.jobs(limit=100_000, type="eval")
        of_model = [job for job in evals if job.result and job.result.get("model") == name]
        job = of_model[0] if of_model else registry.find_job(name, "eval")
    if not job.result:
        raise JobFailed(
            f"evaluation {job.job_id} is {job.status} and has no result",
            f"go on with: synth-ray eval --resume {job.job_id}",
        )
    return job


def resumed(home: Home, name: str, configs: Sequence[Path]) -> tuple[str, tuple[Path, ...]]:
    """The evaluation to go on with, and its configuration unless one is given."""
    from synth_ray.core.errors import ConflictError, NotFoundError
    from synth_ray.records.job_files import JobFiles
    from synth_ray.records.registry import Registry

    job = find_job(home, name)
    if job.type != "eval":
        raise NotFoundError(f"{job.job_id} is no evaluation ({job.type})", "`synth-ray status jobs --type eval`")
    with Registry(home.state_db, read_only=True) as registry:
        (newest,) = registry.jobs(limit=1, type="eval", name=job.name)  # whatever attempt of it was named
    if not newest.status.final:
        raise ConflictError(f"evaluation {newest.job_id} is running", f"see: synth-ray logs {newest.job_id} -f")
    saved = JobFiles(home.jobs / job.name).config_path
    if not saved.exists():  # it ended before it had begun
        raise NotFoundError(f"{job.name} left no configuration", "start the evaluation anew, without --resume")
    return job.name, tuple(configs) or (saved,)


def _sessions(job: Job) -> list[Session]:
    from synth_ray.records.sessions import SessionQuery
    from synth_ray.records.traces import TraceDB

    result = job.result or {}
    with TraceDB(Path(str(result["trace_db"])), read_only=True, check=False) as traces:
        return list(traces.sessions(SessionQuery(run_id=str(result.get("eval_id", job.job_id)))))


def _side(job: Job) -> dict[str, Any]:
    return {"job_id": job.job_id, "model": (job.result or {}).get("model", "")}


def _print(found: EvalDiff, job_a: Job, job_b: Job) -> None:
    say(f"A  {_side(job_a)['model']}  ({job_a.job_id})")
    say(f"B  {_side(job_b)['model']}  ({job_b.job_id})")
    say(f"{found.n_common} common seeds: B better on {found.better}, worse on {found.worse}, equal on {found.equal}")
    if found.only_a or found.only_b:
        say(f"left out: {found.only_a} seeds that only A played, {found.only_b} that only B played")
    headers = ("", "A", "B", "B - A", "95 % interval", "")
    rows = [_row(found.score, 1, 3), *(_row(one, 100, 1) for one in found.achievements)]
    data(table(headers, rows, right=headers[1:5]))
    verdict = "better" if found.score.low > 0 else "worse" if found.score.high < 0 else ""
    say(f"B is clearly {verdict}" if verdict else "no clear difference in the outcome reward")


def _row(one: Difference, factor: float, digits: int) -> tuple[str, ...]:
    unit = " %" if factor == 100 else ""
    a, b, difference, low, high = (factor * value for value in (one.a, one.b, one.difference, one.low, one.high))
    interval = f"{low:+.{digits}f} .. {high:+.{digits}f}"
    name = "outcome reward" if one.name == "score" else one.name
    return (
        name,
        f"{a:.{digits}f}{unit}",
        f"{b:.{digits}f}{unit}",
        f"{difference:+.{digits}f}",
        interval,
        "*" if one.clear else "",
    )
