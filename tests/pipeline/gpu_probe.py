"""A job for a cluster with logical GPUs: where do engine and trainer of a GPU config land?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray

from jobs.eval import engine_spec, preflight
from jobs.runner import Job, run_job
from serve import app, policy
from synth_ray.core.sections import RLConfig
from synth_ray.core.types import Weights
from synth_ray.core.waiting import wait_for
from synth_ray.runtime.devices import Plan, plan
from synth_ray.runtime.trainer import fit


class LogicalPlan(Plan):
    """NCCL needs real GPUs; placement does not."""

    @property
    def backend(self) -> str:
        return "gloo"


def where(_: dict[str, Any]) -> list[str]:
    return [str(gpu) for gpu in ray.get_runtime_context().get_accelerator_ids()["GPU"]]


def work(job: Job[RLConfig]) -> Mapping[str, Any]:
    preflight(job.config)
    app.start_serve(job.http_port, job.home.serve_lock)
    wanted = app.engine(engine_spec(job.config, Weights("no/such-model", "digest")))
    app.ensure([wanted], job.home.serve_lock)
    wait_for("the replica", lambda: app._running(wanted.name), 60)
    engine = app.handle(policy.APP).gpus.remote().result(timeout_s=30)
    chosen = plan(job.config.compute)
    logical = LogicalPlan(chosen.engine, chosen.engine_gpus, chosen.trainer, chosen.trainer_workers)
    trainer = fit(where, {}, logical, job.job_id, job.home.state / "train")
    return {"engine": engine, "trainer": trainer}


if __name__ == "__main__":
    run_job("gpu_probe", RLConfig, work)
