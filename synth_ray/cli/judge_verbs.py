"""judge: is a judge worth listening to?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from synth_ray.cli import options
from synth_ray.cli.output import data, data_json, say, table


@click.group()
def judge() -> None:
    """Judges of rollouts."""


@judge.command()
@options.config_option
@options.set_option
@options.env_file_option
@click.option(
    "--trace-db", type=click.Path(path_type=Path), callback=options.in_project, help="SQLite file with the rollouts."
)
@click.option("--rubric", help="A shipped rubric such as crafter, or the path of a JSON or TOML file.")
@click.option("--limit", type=click.IntRange(1), help="Most rollouts to judge.")
@options.json_option
def calibrate(
    configs: tuple[Path, ...],
    sets: tuple[str, ...],
    env_file: Path,
    trace_db: Path | None,
    rubric: str | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Let a judge score stored rollouts, and say how it agrees with the outcome reward. Needs no cluster.

    \b
    synth-ray judge calibrate -c configs/crafter/judge_groq_gpt_oss.toml --trace-db traces/crafter.db --limit 100
    """
    from synth_ray.core.config import set_text
    from synth_ray.core.paths import find_home
    from synth_ray.runtime.calibrate import calibrate as measured

    given = {"calibrate.trace_db": trace_db, "judge.rubric_id": rubric}
    all_sets = [*sets, *(set_text(key, value) for key, value in given.items() if value)]
    all_sets += [f"calibrate.limit={limit}"] if limit else []
    report = measured(configs, all_sets, find_home(), env_file)
    if as_json:
        data_json("judge.calibrate", report)
        return
    data(_bins_table(report))
    for line in agreement_lines(report):
        say(line)


def agreement_lines(report: Mapping[str, Any]) -> list[str]:
    """How a judge agrees with the outcome reward, in words."""
    numbers = [f"{name} {_shown(report[key])}" for name, key in (("Pearson", "pearson"), ("Spearman", "spearman"))]
    return [
        f"{report['n']} of {report['reviews']} reviews have a score ({report['cached']} cached); "
        f"failed: {report['failures'] or 'none'}",
        f"judge against outcome reward: {', '.join(numbers)}; any achievement: AUC {_shown(report['auc'])}",
    ]


def _bins_table(report: Mapping[str, Any]) -> str:
    headers = ("judge score", "rollouts", "mean score", "mean outcome", "any achievement")
    rows = [
        (
            f"{one['low']:.2f} - {one['high']:.2f}",
            one["n"],
            _shown(one["mean_score"]),
            _shown(one["mean_outcome"]),
            _shown(one["success_rate"]),
        )
        for one in report["bins"]
    ]
    return table(headers, rows, right=headers[1:])


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
