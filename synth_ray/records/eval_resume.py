"""Going on with an evaluation that was stopped: is it the same one, and which of its rollouts and reviews stand."""

from __future__ import annotations

import shlex
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
_MAY_DIFFER = (
    "compute.",
    "vllm.",
    "eval.concurrency",
    "eval.calls_together",
    "eval.rollout_timeout_s",
    "eval.turn_timeout_s",
    "eval.policy_config.request_timeout_s",
)
_JUDGES_MAY_DIFFER = frozenset({"timeout_s", "max_seconds", "max_concurrency"})


def check_same(jobs: Path, eval_id: str, config: Mapping[str, Any]) -> None:
    """Raises ConflictError (exit 5) if evaluation ``eval_id`` had another configuration; NotFoundError without one."""
    path = JobFiles(jobs / eval_id).config_path
    if not path.exists():
        raise NotFoundError(f"{eval_id} left no configuration", "start the evaluation anew, without --resume")
    differing = differing_keys(_judges_by_name(read_config(path)), _judges_by_name(config))
    keys = [key for key in differing if not key.startswith(_MAY_DIFFER)]
    if keys:
        raise ConflictError(
            f"evaluation {eval_id} has another configuration; these keys differ: {', '.join(keys)}",
            "resume with the same configuration, or start anew without --resume",
            keys=keys,
        )


def check_place(jobs: Path, eval_id: str, project: Path, trace_db: str) -> None:
    """Raises ConflictError (exit 5) if ``trace_db`` in ``project`` is not the file with the rollouts of ``eval_id``."""
    began_in = JobFiles(jobs / eval_id).project or project
    if began_in / trace_db != project / trace_db:
        raise ConflictError(
            f"evaluation {eval_id} keeps its rollouts in {began_in / trace_db}, not in {project / trace_db}",
            f"go on where it began: cd {shlex.quote(str(began_in))} && synth-ray eval --resume {eval_id}",
        )


def _judges_by_name(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with its judges as a table by name, so that their keys compare one by one; without what may differ."""
    section = config["eval"]
    judges = {
        judge["name"]: {key: value for key, value in judge.items() if key not in _JUDGES_MAY_DIFFER}
        for judge in section.get("judges", ())
    }
    return {**config, "eval": {**section, "judges": judges}}


def finished(traces: TraceDB, eval_id: str, seeds: Sequence[int]) -> dict[int, Rollout]:
    """The rollouts of ``eval_id`` that ran to a regular end, by their position in ``seeds``."""
    mine = traces.rollouts(SessionQuery(run_id=eval_id))
    return {one.group: one for one in mine if one.ok and 0 <= one.group < len(seeds) and seeds[one.group] == one.seed}


def stored_reviews(traces: TraceDB, eval_id: str) -> dict[str, Mapping[str, Any]]:
    """What judges said of the rollouts of ``eval_id``: by rollout id and judge, as it is stored."""
    sessions = traces.sessions(SessionQuery(run_id=eval_id))
    return {one.rollout_id: one.metadata.get("judge_reviews", {}) for one in sessions}
