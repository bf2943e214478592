"""The coordinator without a cluster: staleness, retries, refusal of foreign weights, resume points."""

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from synth_ray.core.config import validate
from synth_ray.core.errors import DeadlineError, JobFailed, PolicyError, WrongWeights
from synth_ray.core.origins import InferenceOrigins
from synth_ray.core.sections import RLConfig
from synth_ray.core.types import (
    EpisodeSpec,
    Message,
    Provenance,
    Reply,
    RewardParts,
    Rollout,
    StepFacts,
    StopReason,
    Turn,
    Weights,
)
from synth_ray.learn.packing import from_arrays
from synth_ray.records.metrics import last_by_step
from synth_ray.records.rollouts import mean_reward, read_rollouts, rollouts_path
from synth_ray.rollout.judge.judge import Judge
from synth_ray.rollout.judge.review import PartReview, Review, failed
from synth_ray.rollout.judge.rubric import Criterion, Rubric, Rubrics
from synth_ray.rollout.remote.client import ChatClient, ClientLimits
from synth_ray.rollout.remote.retries import RetryBudget
from synth_ray.runtime.adapters import AdapterBlob, AdapterStore
from synth_ray.runtime.checkpoints import Checkpoint, load_latest
from synth_ray.runtime.coordinator import Coordinator, ReviewAll, TrainedStep
from tests.unit.fake_provider import FakeProvider, as_json, completion, fake_provider
from tests.unit.fake_provider import Play as Answer


@pytest.fixture(autouse=True)
def _no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synth_ray.runtime.coordinator.RETRY_DELAY_S", 0.0)


BASE = Weights("/model", "b" * 64)
Play = Callable[[EpisodeSpec], Awaitable[Rollout]]


def config(**training: Any) -> RLConfig:
    small = {"iterations": 3, "batch_size": 2, "group_size": 2, "step_timeout_s": 5, **training}
    return validate(RLConfig, {"model": {"base": "m"}, "training": small})


def rollout(spec: EpisodeSpec, **changes: Any) -> Rollout:
    assert spec.weights is not None
    reply = Reply(
        text="x",
        prompt_ids=(1, 2),
        token_ids=(3, 4),
        logprobs=(-1.0, -0.5),
        weights_name=spec.weights.name,
        weights_digest=changes.pop("digest", spec.weights.digest),
    )
    unlocked = ("wood",) if spec.index else ()
    turn = Turn(0, (Message("user", "o"),), reply, StepFacts(("do",), unlocked), RewardParts(), 1.0, 1.0)
    return Rollout(
        rollout_id=spec.rollout_id,
        run_id=spec.run_id,
        task=spec.task,
        seed=spec.seed,
        model="m",
        provenance=Provenance.ENGINE,
        turns=(turn,),
        outcome=float(len(unlocked)),
        achievements=unlocked,
        stop_reason=changes.pop("stop", StopReason.TURNS),
        started_at="2026-01-01T00:00:00+00:00",
        duration_ms=1.0,
        step=spec.step,
        group=spec.group,
        index=spec.index,
        error=changes.pop("error", None),
    )


class Store:
    def __init__(self) -> None:
        self.inner = AdapterStore()
        self.published: list[AdapterBlob] = []

    async def publish(self, blob: AdapterBlob) -> None:
        self.inner.publish(blob)
        self.published.append(blob)

    async def forget(self, run: str) -> None:
        self.inner.forget(run)


async def good(spec: EpisodeSpec) -> Rollout:
    await asyncio.sleep(0)
    return rollout(spec)


async def learn(coordinator: Coordinator, steps: int, seen: list[int] | None = None) -> None:
    for step in range(steps):
        arrays = None
        while arrays is None:
            arrays = await coordinator.next_batch(step, 1.0)
        assert len(from_arrays(arrays)) > 0
        if seen is not None:
            seen.append(step)
        await coordinator.trained(TrainedStep(step, Checkpoint(step, b"v%d" % step, {"r": 1}, b"o"), {"loss": 1.0}))


def run(
    tmp_path: Path, play: Play, settings: RLConfig, steps: int = 3, review: ReviewAll | None = None
) -> tuple[list[float], Coordinator, Store]:
    store = Store()

    async def main() -> tuple[list[float], Coordinator]:
        coordinator = Coordinator("r", tmp_path, settings, BASE, play, store, review=review)
        learner = asyncio.ensure_future(learn(coordinator, steps))
        try:
            return await coordinator.run(), coordinator
        finally:
            learner.cancel()

    rewards, coordinator = asyncio.run(main())
    return rewards, coordinator, store


def test_rewards_are_those_of_the_files_and_checkpoints_verify(tmp_path: Path) -> None:
    rewards, _, store = run(tmp_path, good, config())
    assert rewards == [0.5] * 3
    assert rewards == [mean_reward(tmp_path / "rollouts" / f"step={step:06d}.parquet") for step in range(3)]
    assert [blob.name for blob in store.published] == ["r@1", "r@2", "r@3"]
    assert store.inner.names() == [], "an ended run leaves nothing in the store"
    latest = load_latest(tmp_path)
    assert latest is not None
    assert (latest.step, latest.adapter) == (2, b"v2")


def test_metrics_say_what_was_paid(tmp_path: Path) -> None:
    async def paid(spec: EpisodeSpec) -> Rollout:
        played = rollout(spec)
        parts = RewardParts({"achievement/wood": 0.5, "inventory/wood": 0.25} if spec.index else {})
        return dataclasses.replace(played, turns=(dataclasses.replace(played.turns[0], reward=parts),))

    signal = {"step_rewards_strategy": "shaped", "step_rewards_indicator_lambda": 0.5}
    run(tmp_path, paid, config(step_rewards_enabled=True, **signal))
    rows = last_by_step(tmp_path / "metrics.jsonl")
    assert [row["reward/achievement/wood/mean"] for row in rows.values()] == [0.25] * 3
    assert rows[0]["reward/inventory/wood/mean"] == 0.125
    assert (rows[0]["resource_reward"], rows[0]["unique_achievements_total"]) == (0.25, 1.0)
    stored = read_rollouts(tmp_path / "rollouts" / "step=000000.parquet")
    components = [row.reward_components for row in stored if row.index_in_group]
    assert components == [{"achievement/wood": 0.5, "inventory/wood": 0.25}] * 2


@pytest.mark.parametrize("max_staleness", [0, 1, 2])
def test_no_rollout_is_older_than_allowed(tmp_path: Path, max_staleness: int) -> None:
    trained: list[int] = []
    ages: list[int] = []
    store = Store()

    async def play(spec: EpisodeSpec) -> Rollout:
        assert spec.weights is not None
        version = int(spec.weights.adapter.partition("@")[2] or 0)
        ages.append(spec.step - version)
        return await good(spec)

    async def main() -> None:
        settings = config(iterations=5, max_staleness=max_staleness)
        coordinator = Coordinator("r", tmp_path, settings, BASE, play, store)
        learner = asyncio.ensure_future(learn(coordinator, 5, trained))
        await coordinator.run()
        learner.cancel()

    asyncio.run(main())
    assert trained == [0, 1, 2, 3, 4]
    assert max(ages) <= max_staleness


def test_foreign_weights_end_the_run(tmp_path: Path) -> None:
    async def play(spec: EpisodeSpec) -> Rollout:
        return rollout(spec, digest="f" * 64)

    with pytest.raises(WrongWeights, match="never published"):
        run(tmp_path, play, config())
    assert not (tmp_path / "rollouts").exists()


def test_a_lost_rollout_is_played_again_under_the_same_id(tmp_path: Path) -> None:
    tries: dict[str, int] = {}

    async def play(spec: EpisodeSpec) -> Rollout:
        tries[spec.rollout_id] = tries.get(spec.rollout_id, 0) + 1
        if tries[spec.rollout_id] == 1:
            raise PolicyError("replica died")
        if tries[spec.rollout_id] == 2:
            return rollout(spec, stop=StopReason.ERROR, error="engine died")
        return rollout(spec)

    rewards, _, _ = run(tmp_path, play, config(iterations=1), steps=1)
    assert rewards == [0.5]
    assert set(tries.values()) == {3}


def test_a_rollout_that_always_fails_ends_the_run_with_its_words(tmp_path: Path) -> None:
    async def play(spec: EpisodeSpec) -> Rollout:
        return rollout(spec, stop=StopReason.ERROR, error="engine died")

    with pytest.raises(JobFailed, match="engine died"):
        run(tmp_path, play, config())


def test_a_learner_that_never_comes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synth_ray.runtime.coordinator.TRAINER_START_TIMEOUT_S", 0.1)
    with pytest.raises(DeadlineError, match="training of step 0"):
        run(tmp_path, good, config(step_timeout_s=0.1), steps=0)


def test_abort_ends_every_wait(tmp_path: Path) -> None:
    async def main() -> None:
        coordinator = Coordinator("r", tmp_path, config(), BASE, good, Store())
        running = asyncio.ensure_future(coordinator.run())
        await asyncio.sleep(0.05)
        await coordinator.abort(JobFailed("the learner fell over"))
        with pytest.raises(JobFailed, match="fell over"):
            await running

    asyncio.run(main())


def test_a_restarted_learner_gets_its_batch_again_and_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        coordinator = Coordinator("r", tmp_path, config(), BASE, good, Store())
        running = asyncio.ensure_future(coordinator.run())
        first = await coordinator.next_batch(0, 5.0)
        assert await coordinator.resume_point() is None
        again = await coordinator.next_batch(0, 5.0)
        assert first is not None and again is not None
        assert all((first[name] == again[name]).all() for name in first)
        done = TrainedStep(0, Checkpoint(0, b"v0", {}, b"o"), {})
        await coordinator.trained(done)
        await coordinator.trained(dataclasses.replace(done))
        resume = await coordinator.resume_point()
        assert resume is not None and resume.step == 0
        running.cancel()

    asyncio.run(main())


def test_a_second_attempt_goes_on_after_the_last_checkpoint(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected, _, _ = run(whole, good, config())
    begun, _, _ = run(parts, good, config(iterations=2))
    reached = load_latest(parts)
    assert reached is not None and reached.step == 1

    async def second() -> tuple[list[float], list[int], Store]:
        store, seen = Store(), list[int]()
        coordinator = Coordinator("r", parts, config(), BASE, good, store, reached)

        async def learner() -> None:
            point = await coordinator.resume_point()
            assert point == reached
            while (await coordinator.next_batch(2, 1.0)) is None:
                pass
            seen.append(2)
            await coordinator.trained(TrainedStep(2, Checkpoint(2, b"v2", {"r": 1}, b"o"), {"loss": 1.0}))

        task = asyncio.ensure_future(learner())
        rewards = await coordinator.run()
        await task
        return rewards, seen, store

    rewards, seen, store = asyncio.run(second())
    assert (rewards, seen) == (expected, [2])
    assert rewards[:2] == begun
    first = store.published[0]
    assert (first.name, first.digest) == ("r@2", reached.digest), "engines get the version already reached"
    names = [path.name for path in sorted((whole / "rollouts").iterdir())]
    assert names == [path.name for path in sorted((parts / "rollouts").iterdir())]
    sampled = [
        {turn.weights_name for row in read_rollouts(rollouts_path(one / "rollouts", 2)) for turn in row.turns}
        for one in (whole, parts)
    ]
    assert sampled[0] == sampled[1]


JUDGED: dict[str, Any] = {
    "enabled": True,
    "timeout_s": 5.0,
    "options": {"provider": "openai", "model": "j"},
    "reward_blend": {"env": 1.0, "outcome": 2.0},
}


def judged(timeout_s: float = 5.0, **training: Any) -> RLConfig:
    values = config(**training).model_dump()
    return validate(RLConfig, {**values, "judge": {**JUDGED, "timeout_s": timeout_s}})


def outcome(score: float) -> Review:
    return Review(outcome_review=PartReview({}, score))


async def even(spec: EpisodeSpec) -> Rollout:
    """Rollouts that the world pays alike."""
    return dataclasses.replace(rollout(spec), outcome=1.0)


def test_a_judge_decides_what_the_world_leaves_open_and_changes_no_batch_reward(tmp_path: Path) -> None:
    seen: list[int] = []

    async def review(rollouts: Sequence[Rollout], within_s: float) -> Mapping[str, Review]:
        seen.append(len(rollouts))
        assert within_s == 5.0
        return {one.rollout_id: outcome(float(one.index)) for one in rollouts}

    rewards, _, _ = run(tmp_path, even, judged(iterations=1), steps=1, review=review)
    assert (rewards, seen) == ([1.0], [4])
    assert rewards == [mean_reward(rollouts_path(tmp_path / "rollouts", 0))]
    stored = read_rollouts(rollouts_path(tmp_path / "rollouts", 0))
    signs = {row.index_in_group: row.turns[0].advantage > 0 for row in stored}
    assert signs == {0: False, 1: True}
    row = last_by_step(tmp_path / "metrics.jsonl")[0]
    assert (row["judge/outcome/mean"], row["judge/event/mean"], row["judge/failed"]) == (0.5, None, 0.0)
    assert (row["reward/mean"], row["reward/blended/mean"]) == (1.0, 2.0)


def test_without_a_judge_nothing_is_said_of_one(tmp_path: Path) -> None:
    run(tmp_path, good, config(iterations=1), steps=1)
    assert not [key for key in last_by_step(tmp_path / "metrics.jsonl")[0] if "judge" in key or "blended" in key]


def test_failed_reviews_leave_the_environments_reward(tmp_path: Path) -> None:
    async def review(rollouts: Sequence[Rollout], within_s: float) -> Mapping[str, Review]:
        return {one.rollout_id: failed("unavailable", "x") for one in rollouts}

    rewards, _, _ = run(tmp_path, good, judged(), review=review)
    assert rewards == [0.5] * 3
    row = last_by_step(tmp_path / "metrics.jsonl")[2]
    assert (row["judge/failed"], row["judge/outcome/mean"], row["reward/blended/mean"]) == (4.0, None, 0.5)


def test_a_judge_that_never_answers_stalls_nothing_and_abort_still_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synth_ray.runtime.coordinator.REVIEW_GRACE_S", 0.1)

    async def never(rollouts: Sequence[Rollout], within_s: float) -> Mapping[str, Review]:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    rewards, _, _ = run(tmp_path / "a", good, judged(timeout_s=0.1, iterations=1), steps=1, review=never)
    assert rewards == [0.5]
    assert last_by_step(tmp_path / "a" / "metrics.jsonl")[0]["judge/failed"] == 4.0

    async def main() -> None:
        coordinator = Coordinator("r", tmp_path / "b", judged(), BASE, good, Store(), review=never)
        running = asyncio.ensure_future(coordinator.run())
        while not (await coordinator.progress()).waits_for.startswith("reviews"):
            await asyncio.sleep(0.01)
        await coordinator.abort(DeadlineError("the learner is late"))
        with pytest.raises(DeadlineError, match="the learner is late"):
            await asyncio.wait_for(running, 2)

    asyncio.run(main())
    assert not (tmp_path / "b" / "rollouts").exists(), "the step was not gone on with"


@pytest.mark.parametrize("answers", ["good", "malformed", "down", "hangs"])
def test_a_run_with_a_real_judge_ends_whatever_it_answers(tmp_path: Path, answers: str) -> None:
    verdict = json.dumps({"outcome_review": {"criteria": {"goal": {"score": 0.5, "reason": "r"}}}})
    plays = {
        "good": as_json(completion({"content": verdict})),
        "malformed": as_json(completion({"content": "ten out of ten"})),
        "down": Answer(503),
        "hangs": Answer(hang=True),
    }
    with fake_provider() as server:
        server.default = plays[answers]
        rewards = _with_judge(tmp_path, server)
    assert rewards == [0.5] * 2
    rows = last_by_step(tmp_path / "metrics.jsonl")
    expected = (0.5, 0.0, 1.5) if answers == "good" else (None, 4.0, 0.5)
    for row in rows.values():
        assert (row["judge/outcome/mean"], row["judge/failed"], row["reward/blended/mean"]) == expected


def _with_judge(tmp_path: Path, server: FakeProvider) -> list[float]:
    settings = judged(timeout_s=1.0, iterations=2)
    assert settings.judge.options is not None
    chosen = settings.judge.options.model_copy(update={"provider": server.origin, "timeout_s": 0.3, "attempts": 2})
    budget = RetryBudget(attempts=2, first_wait_s=0.01)
    rubrics = Rubrics(outcome=Rubric((Criterion("goal", "d"),)))
    judge = Judge(chosen, rubrics, InferenceOrigins([server.origin]), ChatClient(ClientLimits(budget=budget)))
    rewards, _, _ = run(tmp_path, good, settings, steps=2, review=judge.review_all)
    return rewards
