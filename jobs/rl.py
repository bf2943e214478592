"""RL with LoRA: coordinator, learner, task app and policy together; registers the adapter.

python -m jobs.rl --config configs/quickstart/rl_weak.toml --set model.source=fft:crafter-tiny:job_...
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs.check import check_rl
from jobs.eval import engine_spec, preflight
from jobs.runner import Job, run_job
from serve import app
from serve.models import Resolved, as_base, resolve
from synth_ray.core.errors import ConflictError, SynthRayError
from synth_ray.core.sections import RLConfig
from synth_ray.core.types import Weights
from synth_ray.learn.adapter_files import write_adapter
from synth_ray.records.disk import temporary_name
from synth_ray.records.publish import publishing
from synth_ray.records.registry import Model
from synth_ray.records.runs import RunDir
from synth_ray.runtime.checkpoints import Checkpoint
from synth_ray.runtime.coordinator_actor import CoordinatorActor
from synth_ray.runtime.devices import plan
from synth_ray.runtime.judging import JudgePlan, plan_rl_judge
from synth_ray.runtime.remote import local_error
from synth_ray.runtime.trainer import LearnerTask, fit, learn

_POLL_S = 0.5
_ANSWER_TIMEOUT_S = 60.0


def work(job: Job[RLConfig]) -> Mapping[str, Any]:
    """Runs every step and publishes the final adapter."""
    config = job.config
    # Wrong settings of world and rewards end here, before anything is started.
    check_rl(config)
    judge = plan_rl_judge(config, job.env_file, job.home)
    preflight(config)
    app.start_serve(job.http_port, job.home.serve_lock)
    start = as_base(resolve(config.model.start, job.home, job.registry), job.home)
    spec = engine_spec(config, start.weights)
    app.check_engine(spec)
    run = _run_dir(job, start, judge)
    with run.attempt(job.job_id):
        return _run(job, run, start, spec, judge)


def _run_dir(job: Job[RLConfig], start: Resolved, judge: JudgePlan | None) -> RunDir:
    """A new run folder, or with ``--resume`` the one of an earlier attempt with the same configuration and base."""
    rubric = judge.rubrics.digest if judge else ""
    base = {"base": start.ref, "base_digest": start.weights.base_digest, "rubric_digest": rubric}
    config = job.resolved.as_dict()["config"]
    if not job.resume:
        return RunDir.create(job.home.runs, job.name, config, dict(job.resolved.sources), base)
    run = RunDir.resume(job.home.runs, job.name, config)
    if run.record().about.get("rubric_digest", "") != rubric:
        raise ConflictError(f"run {job.name!r} began with another rubric", "choose another --run-name")
    if run.record().about.get("base_digest") != start.weights.base_digest:
        raise ConflictError(
            f"run {job.name!r} started from other weights than {start.ref} has now", "choose another --run-name"
        )
    return run


def _run(job: Job[RLConfig], run: RunDir, start: Resolved, spec: Any, judge: JudgePlan | None) -> Mapping[str, Any]:
    config = job.config
    wanted = [app.task(config.rollout.env_name, job.env_file, job.home.project), app.engine(spec)]
    app.ensure(wanted, job.home.serve_lock)
    app.wait_ready(wanted[0], lambda what, waited_s: job.report("wait", note=f"{what} ({waited_s:.0f} s)"))
    coordinator = _coordinator(job, run, start.weights, app.handle(wanted[0].name), judge)
    learner = threading.Thread(target=_learn, args=(job, coordinator, start.weights.base_dir), daemon=True)
    learner.start()
    app.wait_ready(wanted[1], lambda what, waited_s: job.report("wait", note=f"{what} ({waited_s:.0f} s)"))
    rewards = _watch(job, coordinator)
    weights, checkpoint = _ask(coordinator.result.remote())
    learner.join(timeout=30)
    return {"batch_rewards": rewards, "run_dir": str(run.path), **_publish(job, run, start, weights, checkpoint)}


def _coordinator(job: Job[RLConfig], run: RunDir, base: Weights, task_app: Any, judge: JudgePlan | None) -> Any:
    """The coordinator lives on this machine: the run folder is here."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "max_concurrency": 64, "scheduling_strategy": here, "name": f"coordinator-{job.job_id}"}
    name = run.record().run_id
    given = (name, run.path, job.config, base, task_app, judge)
    return ray.remote(CoordinatorActor).options(**options).remote(*given)


def _learn(job: Job[RLConfig], coordinator: Any, model_dir: str) -> None:
    storage = temporary_name(job.home.state / "train")
    try:
        task = LearnerTask(job.config, model_dir, coordinator)
        fit(learn, {"task": task}, plan(job.config.compute), job.job_id, storage)
    except SynthRayError as error:
        coordinator.abort.remote(error)
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def _watch(job: Job[RLConfig], coordinator: Any) -> list[float]:
    """Reports progress until the run ends."""
    ending = coordinator.run.remote()
    total = job.config.training.iterations
    while True:
        done, _ = ray.wait([ending], timeout=_POLL_S)
        if done:
            break
        progress = _ask(coordinator.progress.remote())
        shown = " ".join(f"{reward:.2f}" for reward in progress.batch_rewards[-10:])
        job.report("train", progress.trained, total, f"{progress.waits_for}; rewards {shown or '-'}")
    return list(_ask(ending))


def _ask(reference: Any) -> Any:
    try:
        return ray.get(reference, timeout=_ANSWER_TIMEOUT_S)
    except ray.exceptions.RayError as error:
        raise local_error(error) from None


def _publish(
    job: Job[RLConfig], run: RunDir, start: Resolved, weights: Weights, checkpoint: Checkpoint
) -> Mapping[str, Any]:
    target = run.path / "adapter"
    with publishing(target, {"job_id": job.job_id, "version": weights.adapter, "base": start.ref}) as folder:
        write_adapter(folder, checkpoint.adapter, checkpoint.config)
    model_id = f"rl:{start.root}:{job.job_id}"
    model = Model(
        model_id,
        start.ref,
        "adapter",
        str(target),
        checkpoint.digest,
        job.job_id,
        base_path=start.weights.base_dir,
        metrics={"base_digest": start.weights.base_digest},
    )
    job.registry.add_model(model)
    return {"model": model_id, "adapter": str(target), "digest": checkpoint.digest, "version": weights.adapter}


if __name__ == "__main__":
    run_job("rl", RLConfig, work)
