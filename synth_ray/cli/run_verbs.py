"""status runs: training runs, alone and side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from synth_ray.cli import options
from synth_ray.cli.lists import show_record, show_table
from synth_ray.cli.output import data, data_json, table
from synth_ray.cli.watching import watch_option, watched

if TYPE_CHECKING:
    from synth_ray.core.paths import Home
    from synth_ray.records.run_summary import RunSummary


@click.command("list")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Most rows.")
@options.json_option
@watch_option
def list_runs(limit: int, as_json: bool, watch: float | None) -> None:
    """The runs of this project side by side: batch rewards, evaluation, duration.

    \b
    synth-ray status runs
    synth-ray status runs compare run-a run-b
    """

    def show() -> None:
        from synth_ray.core.paths import find_home
        from synth_ray.records.run_summary import newest_runs
        from synth_ray.runtime.settle import settle

        home = find_home()
        settle(home)
        runs, evals = newest_runs(home, limit), evaluations(home)
        if as_json:
            data_json("status.runs", [with_eval(run, evals) for run in runs])
            return
        headers = ("run", "state", "steps", "first", "last", "best", "rewards", "eval", "duration")
        show_table(headers, [tuple(_cells(run, evals).values()) for run in runs], right=("first", "last", "best"))

    watched(show, watch)


@click.command("get")
@click.argument("run")
@options.json_option
def get_run(run: str, as_json: bool) -> None:
    """All about one run, with every batch reward."""
    from synth_ray.core.paths import find_home
    from synth_ray.records.run_summary import find_runs
    from synth_ray.runtime.settle import settle

    home = find_home()
    settle(home)
    (found,) = find_runs(home, [run])
    show_record("status.run", with_eval(found, evaluations(home)), as_json)


@click.command("compare")
@click.argument("names", nargs=-1, required=True, metavar="RUN...")
@options.json_option
def compare(names: tuple[str, ...], as_json: bool) -> None:
    """Chosen runs, one column each.

    \b
    synth-ray status runs compare crafter-rl-outcome crafter-rl-stepwise-simple
    """
    from synth_ray.core.paths import find_home
    from synth_ray.records.run_summary import find_runs
    from synth_ray.runtime.settle import settle

    home = find_home()
    settle(home)
    runs, evals = find_runs(home, names), evaluations(home)
    if as_json:
        data_json("status.runs", [with_eval(run, evals) for run in runs])
        return
    columns = [_cells(run, evals) for run in runs]
    rows = [(key, *(cells[key] for cells in columns)) for key in list(columns[0])[1:]]
    steps = max(len(run.rewards) for run in runs)
    rows += [(f"step {at}", *(_reward(run.rewards[at : at + 1]) for run in runs)) for at in range(steps)]
    data(table(("", *names), rows))


def evaluations(home: Home) -> dict[str, dict[str, Any]]:
    """The newest evaluation of the model of each run, by the run's name."""
    from synth_ray.records.registry import Registry

    if not home.state_db.exists():
        return {}
    with Registry(home.state_db, read_only=True) as registry:
        evals = registry.jobs(limit=1000, type="eval")
        trained = [job for kind in ("rl", "sft") for job in registry.jobs(limit=1000, type=kind)]
    by_model: dict[str, dict[str, Any]] = {}
    for job in evals:
        if job.result and "mean" in job.result:
            by_model.setdefault(str(job.result["model"]), dict(job.result))
    models = {job.name: str(job.result["model"]) for job in reversed(trained) if job.result and "model" in job.result}
    return {name: by_model[model] for name, model in models.items() if model in by_model}


def with_eval(run: RunSummary, evals: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """JSON form of a run with its newest evaluation."""
    result = evals.get(run.name)
    wanted = ("model", "mean", "se", "n", "eval_id")
    return {**run.as_dict(), "eval": result and {key: result.get(key) for key in wanted}}


def _cells(run: RunSummary, evals: dict[str, dict[str, Any]]) -> dict[str, str]:
    from synth_ray.records.run_summary import sparkline

    result = evals.get(run.name)
    return {
        "run": run.name,
        "state": run.state,
        "steps": f"{run.steps}/{run.total or '?'}",
        "first": _reward(run.rewards[:1]),
        "last": _reward(run.rewards[-1:]),
        "best": _reward([max(run.rewards)] if run.rewards else []),
        "rewards": sparkline(run.rewards),
        "eval": f"{result['mean']:.3f} +- {result['se']:.3f}" if result else "-",
        "duration": _duration(run.duration_s),
    }


def _reward(values: Any) -> str:
    return f"{values[0]:.3f}" if values else "-"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
