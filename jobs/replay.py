"""Replays a recorded rollout as a film. Needs no cluster; the CLI starts it as a process of its own.

    python -m jobs.replay best --trace-db traces/crafter.db --out best.gif

The last line on stdout is one JSON object: {"ok": true, "result": {...}} or {"ok": false, "error": {...}, "exit_code"}.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs.answer import answered
from synth_ray.core.errors import ConfigError
from synth_ray.core.paths import find_home, import_also_from, numba_cache
from synth_ray.core.types import Rollout
from synth_ray.records.disk import storage_errors, temporary_name
from synth_ray.records.recorded import find_recorded


def work(arguments: argparse.Namespace) -> dict[str, Any]:
    """Finds, replays, checks and films the rollout; the film appears only if the replay went as recorded."""
    from envs import film

    home = find_home(arguments.project)
    if arguments.out:
        film.check_ending(arguments.out)
    found = find_recorded(home, arguments.rollout, arguments.trace_db, arguments.run)
    rollout = found.rollout
    if not rollout.turns:
        raise ConfigError(f"rollout {rollout.rollout_id} has no turns to show", rollout.error or "")
    out = arguments.out or Path(f"replay-{rollout.rollout_id[:16]}.gif")
    frames = _frames(rollout, arguments.app, arguments.scale, home.project)
    total = sum(1 + len(turn.facts.actions) for turn in rollout.turns)
    temporary = temporary_name(out).with_suffix(out.suffix)
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            count = film.write(temporary, film.thinned(frames, total), round(1000 / arguments.fps))
            temporary.replace(out)
        finally:
            temporary.unlink(missing_ok=True)
    return {
        "out": str(out),
        "size_bytes": out.stat().st_size,
        "frames": count,
        "rollout_id": rollout.rollout_id,
        "source": str(found.source),
        "seed": rollout.seed,
        "model": rollout.model,
        "turns": len(rollout.turns),
        "outcome": rollout.outcome,
        "achievements": list(rollout.achievements),
    }


def _frames(rollout: Rollout, app: str, scale: int, project: Path) -> Iterator[Any]:
    """The record is data: only a built-in task is taken from it, any other must be named by the caller."""
    from envs.registry import TASKS, get_task
    from synth_ray.rollout.task import Replayable

    if not app and rollout.task not in TASKS:
        raise ConfigError(
            f"rollout {rollout.rollout_id} is of the task {rollout.task!r}", "name it: --app module:Class"
        )
    import_also_from(project)
    task = get_task(app or rollout.task)
    if not isinstance(task, Replayable):
        raise ConfigError(f"the task {task.name!r} has no replay", "synth-ray traces show prints its rollouts")
    return task.replay(rollout, scale)


def main() -> int:
    """Replays as the arguments say and prints the result."""
    parser = argparse.ArgumentParser(prog="python -m jobs.replay")
    parser.add_argument("rollout", help="id, beginning of an id, best, worst or last")
    parser.add_argument("--trace-db", type=Path, default=None)
    parser.add_argument("--run", default="", help="take the rollout from this RL run")
    parser.add_argument("--app", default="", help="module:Class of a task that is not built in")
    parser.add_argument("--out", type=Path, default=None, help="*.gif or *.webp")
    parser.add_argument("--fps", type=float, default=4.0, help="actions per second")
    parser.add_argument("--scale", type=int, choices=(1, 2, 3, 4), default=1)
    parser.add_argument("--project", type=Path, default=None)
    os.environ.setdefault("NUMBA_CACHE_DIR", str(numba_cache()))  # read at import
    arguments = parser.parse_args()
    return answered(lambda: work(arguments))


if __name__ == "__main__":
    sys.exit(main())
