"""status: jobs and models, newest first."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from synth_ray.cli import options
from synth_ray.cli.output import data, data_json, say, table

limit_option = click.option("--limit", type=click.IntRange(1), default=20, show_default=True)


@click.group()
def status() -> None:
    """Jobs and models, newest first."""


@status.command()
@limit_option
@options.json_option
def jobs(limit: int, as_json: bool) -> None:
    """What ran, and how it ended."""
    rows = [asdict(job) for job in _registry("jobs", limit)]
    if as_json:
        data_json("status.jobs", rows)
        return
    shown = [(row["job_id"], row["type"], row["name"], row["status"], row["created_at"][:19]) for row in rows]
    _show(("job", "type", "name", "status", "created"), shown)


@status.command()
@limit_option
@options.json_option
def models(limit: int, as_json: bool) -> None:
    """Which models there are, and which job made them."""
    rows = [asdict(model) for model in _registry("models", limit)]
    if as_json:
        data_json("status.models", rows)
        return
    shown = [(row["model_id"], row["kind"], row["base"], row["job_id"], row["created_at"][:19]) for row in rows]
    _show(("model", "kind", "base", "job", "created"), shown)


def _registry(what: str, limit: int) -> list[Any]:
    from synth_ray.core.paths import find_home
    from synth_ray.records.registry import Registry

    home = find_home()
    if not home.state_db.exists():
        return []
    with Registry(home.state_db, read_only=True) as registry:
        return list(getattr(registry, what)(limit))


def _show(headers: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    if rows:
        data(table(headers, rows))
    else:
        say("nothing yet; start with: synth-ray quickstart")
