"""Going on with an evaluation that was stopped: which of its rollouts stand, and whether it is the same evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from synth_ray.core.errors import ConflictError, NotFoundError
from synth_ray.core.types import Rollout
from synth_ray.records.job_files import JobFiles
from synth_ray.records.run_record import differing_keys, read_config
from synth_ray.records.sessions import SessionQuery
from synth_ray.records.traces import TraceDB

# How fast, and on what: none of it changes what an episode is.
_MAY_DIFFER = ("compute.", "vllm.", "eval.concurrency", "eval.calls_together", "eval.rollout_timeout_s")


def check_same(jobs: Path, eval_id: str, config: Mapping[str, Any]) -> None:
    """Raises ConflictError (exit 5) if evaluation ``eval_id`` had another configuration; NotFoundError without one."""
    path = JobFiles(jobs / eval_id).config_path
    if not path.exists():
        raise NotFoundError(f"{eval_id} left no configuration", "start the evaluation anew, without --resume")
    keys = [key for key in differing_keys(read_config(path), config) if not key.startswith(_MAY_DIFFER)]
    if keys:
        raise ConflictError(
            f"evaluation {eval_id} has another configuration; these keys differ: {', '.join(keys)}",
            "resume with the same configuration, or start anew without --resume",
            keys=keys,
        )


def finished(traces: TraceDB, eval_id: str, seeds: Sequence[int]) -> dict[int, Rollout]:
    """The rollouts of ``eval_id`` that ran to a regular end, by their position in ``seeds``."""
    mine = traces.rollouts(SessionQuery(run_id=eval_id))
    return {one.group: one for one in mine if one.ok and 0 <= one.group < len(seeds) and seeds[one.group] == one.seed}
