"""Evaluation, and collection of teacher rollouts: a model or a teacher plays seeds; every trace is kept.

python -m jobs.eval --config configs/quickstart/eval.toml --set eval.model=fft:crafter-tiny:job_...
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray

from envs.crafter.score import crafter_score
from envs.registry import get_task
from jobs.playing import play_all
from jobs.runner import Job, run_job
from serve import app
from serve.models import resolve
from synth_ray.core.errors import JobFailed
from synth_ray.core.hashing import derived_seed, slot_id
from synth_ray.core.origins import VENDORS
from synth_ray.core.sections import Eval, EvalConfig
from synth_ray.core.types import Endpoint, EpisodeSpec, Rollout, Weights
from synth_ray.records.scores import summary
from synth_ray.records.traces import TraceDB
from synth_ray.rollout.step_rewards import find_step_rewards, reward_spec_from_block, without_step_rewards
from synth_ray.runtime.adapters import store_actor
from synth_ray.runtime.batching import sampling
from synth_ray.runtime.devices import EngineSpec, plan
from synth_ray.runtime.placement import check_gpus

_WRITE_EVERY = 64


def work(job: Job[EvalConfig]) -> Mapping[str, Any]:
    """Plays the seeds and returns the summary."""
    config = job.config.eval
    app_id = get_task(config.app_id).name
    app.start_serve(job.http_port, job.home.serve_lock)
    wanted = [app.task(app_id, job.env_file)]
    weights = None
    if config.provider == "engine":
        preflight(job.config)
        weights = _weights(job)
        spec = engine_spec(job.config, weights)
        app.check_engine(spec)
        wanted.append(app.engine(spec))
    app.ensure(wanted, job.home.serve_lock)
    for one in wanted:
        app.wait_ready(one, lambda what, waited_s: job.report("wait", note=f"{what} ({waited_s:.0f} s)"))
    rollouts = _play(job, app.handle(app_id), weights)
    failed = [rollout for rollout in rollouts if not rollout.ok]
    if len(failed) == len(rollouts):
        raise JobFailed(f"all {len(rollouts)} rollouts failed; the first: {failed[0].error}")
    return _result(job, rollouts)


def preflight(config: Any) -> None:
    """PrerequisiteError if the cluster lacks the GPUs that a config's [compute] asks for."""
    check_gpus(plan(config.compute), ray.cluster_resources())


def engine_spec(config: Any, weights: Weights) -> EngineSpec:
    """The engine that a config's [compute] and [vllm] ask for."""
    devices = plan(config.compute)
    return EngineSpec(weights.base_dir, devices.engine, devices.engine_gpus, config.vllm)


def _weights(job: Job[EvalConfig]) -> Weights:
    model = resolve(job.config.eval.model, job.home, job.registry)
    if model.adapter:
        ray.get(store_actor().publish.remote(model.adapter), timeout=60)
    return model.weights


def _specs(job: Job[EvalConfig], weights: Weights | None) -> list[EpisodeSpec]:
    config = job.config.eval
    rewards = reward_spec_from_block(find_step_rewards(config.env_config))
    return [
        EpisodeSpec(
            rollout_id=slot_id(job.job_id, 0, index, 0),
            run_id=job.job_id,
            task=config.app_id,
            seed=seed,
            model=config.model,
            provider=_spec_provider(config),
            weights=weights,
            endpoint=_endpoint(config),
            sampling=sampling(config.policy_config, derived_seed("eval", seed)),
            teacher=config.policy_config.teacher,
            env_config=without_step_rewards(config.env_config),
            rewards=rewards,
            max_turns=config.max_turns,
            deadline_s=config.rollout_timeout_s,
            calls_together=config.calls_together,
            group=index,
        )
        for index, seed in enumerate(config.seeds)
    ]


def _spec_provider(config: Eval) -> str:
    if config.remote_url:
        return "remote"
    return "engine" if config.provider == "engine" else config.model


def _endpoint(config: Eval) -> Endpoint | None:
    if not config.remote_url:
        return None
    vendor = config.provider if config.provider in VENDORS else ""
    policy = config.policy_config
    return Endpoint(config.remote_url, config.model, vendor, policy.body, timeout_s=policy.request_timeout_s)


def _play(job: Job[EvalConfig], task_app: Any, weights: Weights | None) -> list[Rollout]:
    config = job.config.eval
    specs = _specs(job, weights)
    done: list[Rollout] = []
    unsaved: list[Rollout] = []
    metadata = {"split": config.split, "job_id": job.job_id}
    with TraceDB(trace_db(job)) as traces:

        def on_done(rollout: Rollout) -> None:
            done.append(rollout)
            unsaved.append(rollout)
            job.report("play", len(done), len(specs), f"rollouts of {config.model}")
            if len(unsaved) >= _WRITE_EVERY:
                traces.add(unsaved, metadata)
                unsaved.clear()

        try:
            return asyncio.run(play_all(task_app, specs, config.concurrency, on_done))
        finally:
            traces.add(unsaved, metadata)


def trace_db(job: Job[EvalConfig]) -> Path:
    """Where the traces go: relative to the project."""
    return job.home.project / job.config.eval.trace_db


def _result(job: Job[EvalConfig], rollouts: list[Rollout]) -> Mapping[str, Any]:
    ok = [rollout for rollout in rollouts if rollout.ok]
    failures = [rollout.error for rollout in rollouts if not rollout.ok]
    scores = summary(ok)
    return {
        "model": job.config.eval.model,
        "mean": scores.mean,
        "se": scores.se,
        "n": scores.n,
        "errors": len(failures),
        "first_error": failures[0] if failures else None,
        "crafter_score": crafter_score([set(rollout.achievements) for rollout in ok]),
        "invalid_turn_rate": scores.invalid_turn_rate,
        "mean_actions": scores.mean_actions,
        "achievement_rates": dict(scores.achievement_rates),
        "trace_db": str(trace_db(job)),
    }


if __name__ == "__main__":
    run_job("eval", EvalConfig, work)
