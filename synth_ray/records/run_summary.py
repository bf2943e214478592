"""Runs side by side: where each stands and what its batch rewards were. Reads files; needs no cluster."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from synth_ray.core.errors import CorruptError, NotFoundError
from synth_ray.core.paths import Home
from synth_ray.records.metrics import last_by_step
from synth_ray.records.run_end import with_end
from synth_ray.records.runs import RunDir, run_names

_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run. ``rewards`` are its batch rewards by step; ``state`` is CORRUPT if its files do not verify."""

    name: str
    state: str
    created_at: str
    duration_s: float | None
    steps: int
    total: int | None
    rewards: tuple[float, ...]
    error: str | None
    attempts: int
    path: str
    label: str = ""
    """What its config calls the model (`model.label`), for people."""

    @property
    def first(self) -> float | None:
        """Batch reward of the first step."""
        return self.rewards[0] if self.rewards else None

    @property
    def last(self) -> float | None:
        """Batch reward of the last step."""
        return self.rewards[-1] if self.rewards else None

    @property
    def best(self) -> float | None:
        """Highest batch reward."""
        return max(self.rewards, default=None)

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**plain, "rewards": list(self.rewards), "first": self.first, "last": self.last, "best": self.best}


def newest_runs(home: Home, limit: int) -> list[RunSummary]:
    """The runs of a project, newest first."""
    runs = home.runs
    names = sorted(run_names(runs), key=lambda name: (runs / name).stat().st_ctime, reverse=True)
    summaries = [run_summary(runs / name, home.state_db) for name in names[: 2 * limit]]
    return sorted(summaries, key=lambda run: run.created_at, reverse=True)[:limit]


def find_runs(home: Home, names: Sequence[str]) -> list[RunSummary]:
    """The runs with these names. Raises NotFoundError that lists what is there."""
    runs = home.runs
    known = run_names(runs)
    for name in names:
        if name not in known:
            there = ", ".join(known[-5:])
            raise NotFoundError(f"there is no run {name!r} in {runs}", f"runs there: {there}" if there else "")
    return [run_summary(runs / name, home.state_db) for name in names]


def run_summary(path: Path, state_db: Path) -> RunSummary:
    """What a run folder says, and of a run that was killed what the registry says of its job."""
    run = RunDir(path)
    try:
        record, config = with_end(run.record(), state_db), run.config()
        rows = last_by_step(run.metrics)
    except CorruptError as error:
        return RunSummary(path.name, "CORRUPT", "", None, 0, None, (), error.message, 0, str(path))
    rewards = tuple(float(row["reward/mean"]) for row in rows.values() if row.get("reward/mean") is not None)
    return RunSummary(
        name=record.name,
        state=record.state.value,
        created_at=record.created_at,
        duration_s=_seconds(record.created_at, record.updated_at if record.state.final else None),
        steps=len(rows),
        total=config.get("training", {}).get("iterations"),
        rewards=rewards,
        error=record.error,
        attempts=len(record.attempts),
        path=str(path),
        label=str(config.get("model", {}).get("label", "")),
    )


def sparkline(values: Sequence[float], width: int = 20) -> str:
    """At most ``width`` bars between the least and the greatest value; longer series show means of equal stretches."""
    if not values:
        return ""
    cells = min(width, len(values))
    edges = [len(values) * at // cells for at in range(cells + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    top = len(_BARS) - 1
    return "".join(_BARS[round(top * (mean - low) / (high - low)) if high > low else 0] for mean in means)


def _seconds(start: str, end: str | None) -> float | None:
    try:
        begun = datetime.fromisoformat(start)
        ended = datetime.fromisoformat(end) if end else datetime.now(begun.tzinfo)
    except ValueError:
        return None
    return round((ended - begun).total_seconds(), 1)
