"""The coordinator: versions, staleness, batches, batch rewards.

Invariants: a group starts only while ``started < (max_staleness + trained + 1) * groups_per_batch``; a slot counts one
rollout, sampled by weights that this run published; a batch stays available until the checkpoint after it is
published; the batch reward is the plain mean of the outcome rewards of the rollouts in that step's file.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from synth_ray.core.errors import DeadlineError, JobFailed, PolicyError, SynthRayError
from synth_ray.core.sections import RLConfig
from synth_ray.core.types import EpisodeSpec, Rollout, Weights
from synth_ray.records.metrics import MetricsLog, Value
from synth_ray.records.rollouts import mean_reward, rollouts_path, write_rollouts
from synth_ray.rollout.judge.review import Review, failed
from synth_ray.rollout.judge.review_metrics import review_metrics
from synth_ray.rollout.reward_metrics import reward_metrics
from synth_ray.runtime.adapters import AdapterBlob, version_name
from synth_ray.runtime.batching import Batch, build_batch, check_weights, group_specs, reward_spec
from synth_ray.runtime.blending import Blend, blended_mean
from synth_ray.runtime.checkpoints import Checkpoint, publish_checkpoint

TRAINER_START_TIMEOUT_S = 240.0
ROLLOUT_ATTEMPTS = 3
RETRY_DELAY_S = 2.0
REVIEW_GRACE_S = 10.0

ReviewAll = Callable[[Sequence[Rollout], float], Awaitable[Mapping[str, Review]]]


class Store(Protocol):
    """Where adapters are published for the engines."""

    async def publish(self, blob: AdapterBlob) -> None:
        """Makes a version available to every engine."""
        ...

    async def forget(self, run: str) -> None:
        """Drops the versions of a run that has ended."""
        ...


@dataclass(frozen=True)
class TrainedStep:
    """What the learner hands over after step ``step``: the next version and its own state."""

    step: int
    checkpoint: Checkpoint
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Progress:
    """What a watcher sees. ``waits_for`` names what the run is waiting for right now."""

    trained: int
    rollouts: int
    waits_for: str
    batch_rewards: tuple[float, ...]


class Coordinator:
    """The state of one RL run. ``play`` runs an episode somewhere, ``store`` publishes adapters; both are injected.

    ``reached`` is the last checkpoint of an earlier attempt in the same folder, after which this one goes on. ``run``
    names versions and rollouts; it must be the same in every attempt. ``review`` judges rollouts within some seconds;
    None if `[judge]` is off.
    """

    def __init__(
        self,
        run: str,
        run_dir: Path,
        config: RLConfig,
        base: Weights,
        play: Callable[[EpisodeSpec], Awaitable[Rollout]],
        store: Store,
        reached: Checkpoint | None = None,
        review: ReviewAll | None = None,
    ) -> None:
        self._run, self._run_dir, self._config = run, run_dir, config
        self._play, self._store, self._review = play, store, review
        self._rewards = reward_spec(config)
        self._metrics = MetricsLog(run_dir / "metrics.jsonl")
        self._weights = base
        self._published = {base.name: base.digest}
        self._batches: dict[int, Batch] = {}
        self._batch_rewards: list[float] = []
        self._step_metrics: dict[int, dict[str, Value]] = {}
        self._checkpoint: Checkpoint | None = None
        self._live: deque[AdapterBlob] = deque(maxlen=config.training.max_staleness + 1)
        self._trained = 0
        self._rollouts = 0
        self._waits_for = "first rollouts"
        self._changed = asyncio.Condition()
        self._slots = asyncio.Semaphore(config.rollout.max_concurrent_rollouts)
        self._failure: SynthRayError | None = None
        self._learner_seen = asyncio.Event()
        if reached is not None:
            self._go_on_after(reached)

    async def run(self) -> list[float]:
        """Plays and trains every step; returns the batch rewards. Raises what stopped the run."""
        training = self._config.training
        await self._republish()
        for step in range(self._trained, training.iterations):
            oldest_needed = step - training.max_staleness
            await self._until(partial(self._is_trained, oldest_needed), f"training of step {oldest_needed - 1}")
            await self._one_iteration(step)
        await self._until(partial(self._is_trained, training.iterations), "the last training step")
        await self._store.forget(self._run)
        return self._batch_rewards

    async def next_batch(self, step: int, wait_s: float) -> dict[str, Any] | None:
        """The arrays of step ``step`` for the learner; None if there are none yet after ``wait_s``."""
        self._learner_seen.set()
        try:
            await asyncio.wait_for(self._wait(lambda: step in self._batches), wait_s)
        except TimeoutError:
            return None
        return self._batches[step].samples.as_arrays()

    async def resume_point(self) -> Checkpoint | None:
        """The last published checkpoint: where a (re)started learner goes on."""
        self._learner_seen.set()
        return self._checkpoint

    async def trained(self, result: TrainedStep) -> None:
        """Takes a new version: checkpoint first, then the adapter store, then the door for the next step opens."""
        if result.step < self._trained:
            return
        started = time.perf_counter()
        checkpoint = result.checkpoint
        await asyncio.to_thread(publish_checkpoint, self._run_dir, checkpoint)
        blob = self._blob(checkpoint)
        await self._store.publish(blob)
        self._adopt(checkpoint, blob)
        sync_s = time.perf_counter() - started
        self._metrics.append(
            result.step, {**self._step_metrics.pop(result.step, {}), **result.metrics, "time/sync": sync_s}
        )
        async with self._changed:
            self._trained = result.step + 1
            self._batches.pop(result.step, None)
            self._changed.notify_all()

    async def abort(self, error: SynthRayError) -> None:
        """Stops the run with ``error``: the learner failed, or the user asked for it."""
        async with self._changed:
            self._failure = error
            self._changed.notify_all()

    async def progress(self) -> Progress:
        """Where the run is."""
        return Progress(self._trained, self._rollouts, self._waits_for, tuple(self._batch_rewards))

    async def result(self) -> tuple[Weights, Checkpoint]:
        """The final weights and their checkpoint; JobFailed if nothing was trained."""
        if self._checkpoint is None:
            raise JobFailed("the run trained nothing")
        return self._weights, self._checkpoint

    async def _one_iteration(self, step: int) -> None:
        started = time.perf_counter()
        weights, groups_per_batch = self._weights, self._config.training.batch_size
        specs = [group_specs(self._config, self._run, step, group, weights) for group in range(groups_per_batch)]
        self._waits_for = f"rollouts of step {step}"
        groups = await self._guarded(
            asyncio.gather(*(self._group(group) for group in specs)),
            self._rollouts_timeout_s(),
        )
        rollout_s = time.perf_counter() - started
        rollouts = [rollout for group in groups for rollout in group]
        blend, judged = await self._judged(step, groups)
        batch = build_batch(groups, self._config.training, self._rewards, blend)
        await asyncio.to_thread(write_rollouts, self._run_dir / "rollouts", step, rollouts, batch.advantages)
        reward = statistics.fmean(rollout.outcome for rollout in rollouts)
        self._batch_rewards.append(reward)
        self._step_metrics[step] = {
            "reward/mean": reward,
            **_rollout_metrics(rollouts),
            **reward_metrics(rollouts, self._rewards),
            **judged,
            "time/rollout": rollout_s,
        }
        async with self._changed:
            self._batches[step] = batch
            self._changed.notify_all()

    async def _judged(self, step: int, groups: list[list[Rollout]]) -> tuple[Blend | None, dict[str, Value]]:
        """The judge's scores and their metrics; neither if `[judge]` is off. A judge that is late has failed."""
        if self._review is None:
            return None, {}
        started = time.perf_counter()
        self._waits_for = f"reviews of step {step}"
        rollouts = [rollout for group in groups for rollout in group]
        within_s = self._config.judge.timeout_s
        try:
            reviews = await self._guarded(self._review(rollouts, within_s), within_s + REVIEW_GRACE_S)
        except DeadlineError as late:
            if self._failure:
                raise self._failure from None
            reviews = {rollout.rollout_id: failed("deadline", late.message) for rollout in rollouts}
        weights = self._config.reward_blend
        blend = Blend(weights, {name: review.scores for name, review in reviews.items()})
        mean = blended_mean(groups, blend, self._rewards.stepwise)
        judge_s = time.perf_counter() - started
        return blend, {**review_metrics(reviews), "reward/blended/mean": mean, "time/judge": judge_s}

    def _rollouts_timeout_s(self) -> float:
        """Every wave of concurrent rollouts may use up all of its attempts."""
        training, rollout = self._config.training, self._config.rollout
        waves = math.ceil(training.batch_size * training.group_size / rollout.max_concurrent_rollouts)
        return (rollout.rollout_timeout_s + ROLLOUT_ATTEMPTS * RETRY_DELAY_S) * ROLLOUT_ATTEMPTS * waves

    async def _group(self, specs: list[EpisodeSpec]) -> list[Rollout]:
        return list(await asyncio.gather(*(self._slot(spec) for spec in specs)))

    async def _slot(self, spec: EpisodeSpec) -> Rollout:
        problem: SynthRayError | None = None
        for attempt in range(ROLLOUT_ATTEMPTS):
            await asyncio.sleep(attempt * RETRY_DELAY_S)
            async with self._slots:
                try:
                    rollout = await self._play(spec)
                except PolicyError as lost:
                    problem = lost
                    continue
            if rollout.ok:
                check_weights(rollout, self._published)
                self._rollouts += 1
                return rollout
            problem = JobFailed(f"rollout {spec.rollout_id} (seed {spec.seed}) failed: {rollout.error}")
            await self._republish()
        raise JobFailed(
            f"a rollout failed {ROLLOUT_ATTEMPTS} times; last: {problem}", "see the logs of the task app and the policy"
        )

    async def _republish(self) -> None:
        """The store may have lost what it held; publishing the same version again is harmless."""
        for blob in tuple(self._live):
            await self._store.publish(blob)

    def _blob(self, checkpoint: Checkpoint) -> AdapterBlob:
        name = version_name(self._run, checkpoint.step + 1)
        return AdapterBlob(name, checkpoint.digest, checkpoint.config, checkpoint.adapter)

    def _adopt(self, checkpoint: Checkpoint, blob: AdapterBlob) -> None:
        """From now on rollouts are sampled by this checkpoint's adapter."""
        self._live.append(blob)
        self._published[blob.name] = blob.digest
        self._checkpoint = checkpoint
        self._weights = replace(self._weights, adapter=blob.name, adapter_digest=blob.digest)

    def _go_on_after(self, checkpoint: Checkpoint) -> None:
        """Everything up to the checkpoint is on disk; what an earlier attempt did after it is done again."""
        self._adopt(checkpoint, self._blob(checkpoint))
        self._trained = checkpoint.step + 1
        self._batch_rewards = [
            mean_reward(rollouts_path(self._run_dir / "rollouts", step)) for step in range(self._trained)
        ]

    def _is_trained(self, steps: int) -> bool:
        return self._trained >= steps

    async def _until(self, done: Callable[[], bool], name: str) -> None:
        self._waits_for = name
        deadline_s = self._config.training.step_timeout_s + (
            0 if self._learner_seen.is_set() else TRAINER_START_TIMEOUT_S
        )
        await self._guarded(self._wait(done), deadline_s)

    async def _wait(self, done: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: done() or self._failure is not None)
        if not done() and self._failure:
            raise self._failure

    async def _guarded(self, work: Awaitable[Any], deadline_s: float) -> Any:
        """Runs ``work``; ends it at the deadline, which names what was waited for, or when the run is aborted."""
        task = asyncio.ensure_future(work)
        failed = asyncio.ensure_future(self._wait(lambda: False))
        try:
            await asyncio.wait({task, failed}, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if failed.done():
                failed.result()
            raise DeadlineError(f"{self._waits_for} did not end within {deadline_s:.0f} s")
        finally:
            for pending in (task, failed):
                pending.cancel()
            await asyncio.gather(task, failed, return_exceptions=True)


def _rollout_metrics(rollouts: list[Rollout]) -> dict[str, float]:
    outcomes = [rollout.outcome for rollout in rollouts]
    turns = [turn for rollout in rollouts for turn in rollout.turns]
    return {
        "reward/std": statistics.pstdev(outcomes),
        "reward/min": min(outcomes),
        "reward/max": max(outcomes),
        "rollouts": float(len(rollouts)),
        "completions/mean_length": statistics.fmean(len(turn.reply.token_ids) for turn in turns),
        "actions/mean": statistics.fmean(sum(turn.facts.env_steps for turn in rollout.turns) for rollout in rollouts),
        "invalid_turns": statistics.fmean(turn.facts.problem is not None for turn in turns),
    }
