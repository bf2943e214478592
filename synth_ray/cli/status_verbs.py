"""status: jobs, models, runs, files and all of them at a glance; newest first."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from synth_ray.cli import file_verbs, options, run_verbs
from synth_ray.cli.groups import default_group
from synth_ray.cli.lists import registered, show_record, show_table
from synth_ray.cli.output import data, data_json, say, table
from synth_ray.cli.train_verbs import find_job, follow_option, show_logs, tail_option
from synth_ray.cli.watching import watch_option, watched
from synth_ray.records.states import State

_TYPES = ("eval", "sft", "rl", "deploy")
limit_option = click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Most rows.")


@click.group()
def status() -> None:
    """Jobs, models, runs and files, newest first.

    \b
    synth-ray status jobs
    synth-ray status runs --watch
    synth-ray status models --tree
    """


@click.command("list")
@limit_option
@click.option("--type", "type_", type=click.Choice(_TYPES), default=None, help="Only these.")
@click.option("--status", "state", type=click.Choice(list(State), case_sensitive=False), default=None)
@options.json_option
@watch_option
def list_jobs(limit: int, type_: str | None, state: State | None, as_json: bool, watch: float | None) -> None:
    """What ran, and how it ended.

    \b
    synth-ray status jobs --type rl
    synth-ray status jobs --watch
    """

    def show() -> None:
        rows = [asdict(job) for job in registered("jobs", limit, type=type_ or "", status=state or "")]
        if as_json:
            data_json("status.jobs", rows)
            return
        shown = [(r["job_id"], r["type"], r["name"], r["status"], r["created_at"][:19], _made(r)) for r in rows]
        filtered = type_ is not None or state is not None
        show_table(("job", "type", "name", "status", "created", "result"), shown, filtered=filtered)

    watched(show, watch)


@click.command("get")
@click.argument("job")
@options.json_option
def get_job(job: str, as_json: bool) -> None:
    """All about one job: its id, or the name of its run."""
    show_record("status.job", asdict(find_job(_home(), job)), as_json)


@click.command("logs")
@click.argument("job")
@follow_option
@tail_option
def job_logs(job: str, follow: bool, tail: int | None) -> None:
    """What a job has printed."""
    show_logs(job, follow, tail)


@click.command("cancel")
@click.argument("job")
@options.env_file_option
def cancel_job(job: str, env_file: Any) -> None:
    """Stop a job; what it has published stays."""
    from synth_ray.cli.verbs import client
    from synth_ray.records.job_files import JobFiles
    from synth_ray.runtime.job_client import Submitted

    home = _home()
    found = find_job(home, job)
    if found.status.final:
        say(f"{found.job_id} has ended already: {found.status}")
        return
    client(home, env_file).stop(Submitted(found.job_id, found.type, JobFiles(home.jobs / found.job_id)))
    say(f"{found.job_id}: {find_job(home, job).status}")


@click.command("list")
@limit_option
@click.option("--tree", is_flag=True, help="What was made from what.")
@options.json_option
@watch_option
def list_models(limit: int, tree: bool, as_json: bool, watch: float | None) -> None:
    """Which models there are, from what they were made, and by which job.

    \b
    synth-ray status models
    synth-ray status models --tree
    """

    def show() -> None:
        models = registered("models", limit)
        if as_json:
            data_json("status.models", [asdict(model) for model in models])
        elif tree and models:
            from synth_ray.cli.lineage import tree_rows

            data(table(("model", "kind", "job", "created"), tree_rows(models)))
        else:
            shown = [(m.model_id, m.kind, m.base, m.job_id, m.created_at[:19]) for m in models]
            show_table(("model", "kind", "base", "job", "created"), shown)

    watched(show, watch)


@click.command("get")
@click.argument("model_id")
@options.json_option
def get_model(model_id: str, as_json: bool) -> None:
    """All about one model, with its ancestors."""
    from synth_ray.core.errors import NotFoundError
    from synth_ray.records.registry import Registry

    home = _home()
    if not home.state_db.exists():
        raise NotFoundError(f"there is no model {model_id!r}", "no model was made here yet")
    with Registry(home.state_db, read_only=True) as registry:
        chain = registry.lineage(model_id)
    ancestors = [*(model.model_id for model in chain[1:]), chain[-1].base]
    show_record("status.model", {**asdict(chain[0]), "ancestors": ancestors}, as_json)


@click.command("summary")
@options.json_option
@watch_option
def summary(as_json: bool, watch: float | None) -> None:
    """The cluster, counts, and the newest of everything."""

    def show() -> None:
        from synth_ray.cli.overview import overview

        value = overview(_home())
        if as_json:
            data_json("status.summary", value)
            return
        show_record("status.summary", value, False)

    watched(show, watch)


def _home() -> Any:
    from synth_ray.core.paths import find_home

    return find_home()


def _made(row: dict[str, Any]) -> str:
    result = row["result"] or {}
    if row["type"] == "eval" and "mean" in result:
        return f"{result['mean']:.3f} +- {result['se']:.3f}  {result['model']}"
    return str(result.get("model") or result.get("url") or row["error"] or "")[:80]


status.add_command(default_group(list_jobs, "jobs", get_job, job_logs, cancel_job, alias="list"))
status.add_command(default_group(list_models, "models", get_model, alias="list"))
status.add_command(default_group(run_verbs.list_runs, "runs", run_verbs.get_run, run_verbs.compare, alias="list"))
status.add_command(default_group(file_verbs.list_files, "files", file_verbs.get_file, alias="list"))
status.add_command(summary)
