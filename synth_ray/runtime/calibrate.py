"""Calibration: a judge scores stored rollouts, and its scores are set against the outcome rewards."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from synth_ray.core.config import load_config
from synth_ray.core.errors import JobFailed, NotFoundError
from synth_ray.core.judge_sections import CalibrateConfig
from synth_ray.core.paths import Home
from synth_ray.core.types import Rollout
from synth_ray.records.traces import SessionQuery, TraceDB
from synth_ray.rollout.judge.review import Review
from synth_ray.runtime.judging import JudgePlan, plan_judge, start_judge
from synth_ray.runtime.panel import calibration


def calibrate(files: Sequence[Path], sets: Sequence[str], home: Home, env_file: Path) -> dict[str, Any]:
    """The report on the judge that the TOML ``files`` and ``sets`` describe; a relative database is in the project.

    Raises what ``load_config``, ``plan_judge`` and ``TraceDB`` raise, NotFoundError if no rollout is there, JobFailed
    if every review failed.
    """
    config = load_config(CalibrateConfig, files, sets).config
    plan = plan_judge(config.judge, None, str(env_file), home)
    chosen = config.calibrate
    db = home.project / chosen.trace_db
    with TraceDB(db, read_only=True) as database:
        found = database.rollouts(SessionQuery(models=chosen.models, run_id=chosen.run_id, order="seed"))
        rollouts = list(islice((one for one in found if one.ok), chosen.limit))
    if not rollouts:
        raise NotFoundError(f"{db} holds no finished rollout of that kind", "run: synth-ray eval")
    reviews = asyncio.run(_reviews(plan, rollouts))
    report = calibration(rollouts, reviews)
    if report["n"] == 0:
        raise JobFailed(f"all {len(rollouts)} reviews failed; the first: {report['first_failure']}")
    judge = {"model": config.judge.model, "url": config.judge.url, "rubric_digest": plan.rubrics.digest}
    return {"trace_db": str(db), "judge": judge, **report}


async def _reviews(plan: JudgePlan, rollouts: Sequence[Rollout]) -> dict[str, Review]:
    judge = start_judge(plan)
    try:
        return await judge.review_all(rollouts, plan.options.max_seconds)
    finally:
        await judge.aclose()
