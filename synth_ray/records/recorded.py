"""One recorded rollout by the name that a person gives it, from a trace database or from a training run."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from synth_ray.core.errors import ConfigError, CorruptError, NotFoundError
from synth_ray.core.paths import Home
from synth_ray.core.types import Rollout
from synth_ray.records.rollout_schema import RolloutRow, rollout_from_row
from synth_ray.records.rollouts import read_outcomes, read_rollouts
from synth_ray.records.runs import RunDir
from synth_ray.records.traces import TraceDB

Outcomes = Sequence[tuple[str, float]]

_TOLD = 5

SPECIAL: Mapping[str, Callable[[Outcomes], tuple[str, float]]] = {
    "best": lambda outcomes: max(outcomes, key=lambda one: one[1]),
    "worst": lambda outcomes: min(outcomes, key=lambda one: one[1]),
    "last": lambda outcomes: outcomes[-1],
}


@dataclass(frozen=True, slots=True)
class Recorded:
    """A rollout and the file that it was read from."""

    rollout: Rollout
    source: Path


def find_recorded(home: Home, name: str, trace_db: Path | None = None, run: str = "") -> Recorded:
    """The rollout ``name`` of a run if one is given, else of ``trace_db``, else of the newest database under traces/.

    ``name`` is an id, the unique beginning of one, or a key of ``SPECIAL``. Raises NotFoundError, ConfigError if the
    beginning is not unique or both sources are given, or CorruptError.
    """
    if run and trace_db:
        raise ConfigError("give either a trace database or a run, not both")
    if run:
        return _of_run(home, run, name)
    path = home.project / trace_db if trace_db else newest_trace_db(home.traces)
    with TraceDB(path, read_only=True, check=False) as traces:
        return Recorded(traces.load(choose(name, traces.outcomes(), str(path))), path)


def newest_trace_db(folder: Path) -> Path:
    """The trace database that was written last. Raises NotFoundError if there is none."""
    found = sorted(folder.glob("*.db"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise NotFoundError(
            f"there is no trace database in {folder}", "synth-ray eval makes one; or give --trace-db FILE"
        )
    return found[-1]


def choose(name: str, outcomes: Outcomes, where: str) -> str:
    """The one id among ``outcomes`` (in order of time) that ``name`` means; the earliest of equally good ones."""
    ids = [rollout_id for rollout_id, _ in outcomes]
    if name in ids:
        return name
    if not ids:
        raise NotFoundError(f"{where} holds no rollouts", "run an evaluation first: synth-ray eval")
    if name in SPECIAL:
        return SPECIAL[name](outcomes)[0]
    matching = [rollout_id for rollout_id in ids if rollout_id.startswith(name)]
    if len(matching) > 1:
        told = ", ".join(matching[:_TOLD]) + (", ..." if len(matching) > _TOLD else "")
        raise ConfigError(f"{len(matching)} rollouts in {where} begin with {name!r}: {told}", "give more characters")
    if not matching:
        close = difflib.get_close_matches(name, [*SPECIAL, *ids[-1000:]], n=1)
        guess = f"did you mean {close[0]!r}? " if close else ""
        raise NotFoundError(f"no rollout {name!r} in {where}", f"{guess}synth-ray traces list shows what is there")
    return matching[0]


def _of_run(home: Home, run: str, name: str) -> Recorded:
    files = sorted(RunDir.load(home.runs, run).rollouts.glob("step=??????.parquet"))
    outcomes = {path: read_outcomes(path) for path in files}
    chosen = choose(name, [one for some in outcomes.values() for one in some], f"run {run}")
    path = next(path for path, some in outcomes.items() if chosen in dict(some))
    row = next(row for row in read_rollouts(path) if row.trajectory_id == chosen)
    return Recorded(_rollout(row, path), path)


def _rollout(row: RolloutRow, path: Path) -> Rollout:
    try:
        return rollout_from_row(row)
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptError(f"rollout {row.trajectory_id} in {path} is damaged: {error}", path=str(path)) from error
