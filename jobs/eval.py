"""Evaluation, and collection of teacher rollouts: a model or a teacher plays seeds; every trace is kept.

python -m jobs.eval --config configs/quickstart/eval.toml --set eval.model=fft:crafter-tiny:job_...
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray

from envs.crafter.info import TASK_NAME
from envs.crafter.score import crafter_score
from envs.registry import get_task, names
from jobs.check import check_eval
from jobs.playing import all_or_none, play_all
from jobs.runner import Job, run_job
from serve import app
from serve.models import check_rank, resolve
from synth_ray.core.errors import JobFailed
from synth_ray.core.hashing import derived_seed, slot_id
from synth_ray.core.origins import VENDORS
from synth_ray.core.sections import Eval, EvalConfig
from synth_ray.core.types import Endpoint, EpisodeSpec, Rollout, Weights
from synth_ray.records.eval_resume import check_place, check_same, finished, stored_reviews
from synth_ray.records.scores import summary
from synth_ray.records.traces import TraceDB
from synth_ray.rollout.remote.request import offered_tools
from synth_ray.rollout.step_rewards import find_step_rewards, reward_spec_from_block, without_step_rewards
from synth_ray.runtime.adapters import store_actor
from synth_ray.runtime.batching import sampling
from synth_ray.runtime.devices import EngineSpec, plan
from synth_ray.runtime.judging import JudgePlan, plan_judge
from synth_ray.runtime.panel import Panel
from synth_ray.runtime.placement import check_gpus

_GATHER_S = 0.1
"""Rollouts that end within this time share a transaction: one each would cost as much as many together."""


def work(job: Job[EvalConfig]) -> Mapping[str, Any]:
    """Plays the seeds and returns the summary; with ``--resume``, only those that an earlier job did not finish."""
    config = job.config.eval
    check_eval(config)
    if job.resume:
        check_same(job.home.jobs, job.name, job.resolved.as_dict()["config"])
        check_place(job.home.jobs, job.name, job.home.project, config.trace_db)
    # A judge that can't be asked ends the job here, before anything is started.
    judges = {one.name: plan_judge(one, None, job.env_file, job.home) for one in config.judges}
    app.start_serve(job.http_port, job.home.serve_lock)
    wanted = [app.task(config.app_id, job.env_file, job.home.project)]
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
    rollouts, reports = _play(job, app.handle(wanted[0].name), weights, judges)
    failed = [rollout for rollout in rollouts if not rollout.ok]
    if len(failed) == len(rollouts):
        raise JobFailed(f"all {len(rollouts)} rollouts failed; the first: {failed[0].error}")
    return _result(job, rollouts, reports)


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
        check_rank(model, job.config.vllm.max_lora_rank)
        ray.get(store_actor().publish.remote(model.adapter), timeout=60)
    return model.weights


def _specs(job: Job[EvalConfig], weights: Weights | None) -> list[EpisodeSpec]:
    config = job.config.eval
    rewards = reward_spec_from_block(find_step_rewards(config.env_config))
    return [
        EpisodeSpec(
            rollout_id=slot_id(job.job_id, 0, index, 0),
            run_id=eval_id(job),
            task=config.app_id,
            seed=seed,
            model=config.model,
            provider=_spec_provider(config),
            weights=weights,
            endpoint=_endpoint(config),
            sampling=sampling(config.policy_config, derived_seed("eval", seed)),
            thinking=config.policy_config.thinking,
            teacher=config.policy_config.teacher,
            env_config=without_step_rewards(config.env_config),
            rewards=rewards,
            max_turns=config.max_turns,
            deadline_s=config.rollout_timeout_s,
            turn_timeout_s=config.turn_timeout_s,
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
    thinking = {"thinking_mode": policy.thinking_mode} if policy.thinking_mode else {}
    return Endpoint(
        config.remote_url, config.model, vendor, {**thinking, **policy.body}, timeout_s=policy.request_timeout_s
    )


def _play(
    job: Job[EvalConfig], task_app: Any, weights: Weights | None, judges: Mapping[str, JudgePlan]
) -> tuple[list[Rollout], Mapping[str, Any]]:
    """The rollouts, and what there is to say about every judge."""
    config = job.config.eval
    specs = _specs(job, weights)
    with TraceDB(trace_db(job)) as traces:
        kept = finished(traces, eval_id(job), config.seeds) if job.resume else {}
        reviews = stored_reviews(traces, eval_id(job)) if job.resume else {}
        missing = [spec for spec in specs if spec.group not in kept]
        about = {"split": config.split, "job_id": job.job_id, **offered_tools(specs[0], get_task(config.app_id))}
        written = _Written(
            traces,
            about,
            lambda done: job.report("play", len(kept) + done, len(specs), f"rollouts of {config.model}"),
        )

        async def main() -> tuple[list[Rollout], Mapping[str, Any]]:
            panel = Panel(judges)

            async def on_done(rollout: Rollout) -> None:
                written.played(rollout)
                await written.judged(rollout, await panel.review(rollout))

            async def judge_late(rollout: Rollout) -> None:
                await asyncio.to_thread(traces.annotate, rollout.rollout_id, await panel.review(rollout))

            try:
                unjudged = [one for one in kept.values() if not panel.recall(one.rollout_id, reviews[one.rollout_id])]
                playing = play_all(task_app, missing, config.concurrency, on_done)
                played, *_ = await all_or_none([playing, *map(judge_late, unjudged)])
                rollouts = sorted([*kept.values(), *played], key=lambda one: one.group)
                return rollouts, panel.report(rollouts)
            finally:
                await panel.aclose()

        try:
            return asyncio.run(main())
        finally:
            written.everything()


class _Written:
    """Puts rollouts into the trace database soon after they end, and says how many are in it; no kill takes those.

    At the end come also those that no judge has answered for.
    """

    def __init__(self, traces: TraceDB, metadata: Mapping[str, Any], report: Callable[[int], None]) -> None:
        self._traces, self._metadata, self._report = traces, metadata, report
        self._waiting: dict[str, Rollout] = {}
        self._ready: dict[str, Mapping[str, Any]] = {}
        self._writing = asyncio.Lock()
        self._done = 0

    def played(self, rollout: Rollout) -> None:
        """A rollout that may still get reviews."""
        self._waiting[rollout.rollout_id] = rollout

    async def judged(self, rollout: Rollout, own: Mapping[str, Any]) -> None:
        """A rollout that is complete, with metadata of its own; it is on the disk when this returns."""
        self._ready[rollout.rollout_id] = own
        async with self._writing:
            if rollout.rollout_id in self._ready:
                await asyncio.sleep(_GATHER_S)
                await self._write_ready()

    def everything(self) -> None:
        """Whatever is not written yet."""
        self._traces.add(self._waiting.values(), self._metadata, self._ready)

    async def _write_ready(self) -> None:
        ready = dict(self._ready)
        rollouts = [self._waiting[one] for one in ready]
        await asyncio.to_thread(self._traces.add, rollouts, self._metadata, ready)
        for one in ready:
            del self._waiting[one], self._ready[one]
        self._done += len(ready)
        self._report(self._done)


def eval_id(job: Job[EvalConfig]) -> str:
    """What its rollouts carry as run id: the job that began the evaluation."""
    return job.name if job.resume else job.job_id


def trace_db(job: Job[EvalConfig]) -> Path:
    """Where the traces go: relative to the project."""
    return job.home.project / job.config.eval.trace_db


def _result(
    job: Job[EvalConfig], rollouts: list[Rollout], judges: Mapping[str, Any] | None = None
) -> Mapping[str, Any]:
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
        "invalid_turn_rate": scores.invalid_turn_rate,
        "mean_actions": scores.mean_actions,
        "achievement_rates": dict(scores.achievement_rates),
        "judges": dict(judges or {}),
        "trace_db": str(trace_db(job)),
        **_score(job.config.eval.app_id, ok),
        "eval_id": eval_id(job),
    }


def _score(app_id: str, rollouts: list[Rollout]) -> dict[str, float]:
    """The Crafter score, for Crafter."""
    if TASK_NAME not in names(app_id):
        return {}
    return {"crafter_score": crafter_score([set(rollout.achievements) for rollout in rollouts])}


if __name__ == "__main__":
    run_job("eval", EvalConfig, work)
