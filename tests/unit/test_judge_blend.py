"""What rollouts are worth when a judge has a say, up to the advantages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from synth_ray.core.config import validate
from synth_ray.core.errors import ConfigError
from synth_ray.core.judge_sections import RewardBlend
from synth_ray.core.sections import RLConfig
from synth_ray.core.types import Provenance, Reply, RewardParts, RewardSpec, Rollout, StepFacts, StopReason, Turn
from synth_ray.rollout.judge.blend import blended_return, blended_turns, filled
from synth_ray.rollout.judge.review import NO_SCORES, JudgeScores
from synth_ray.runtime.batching import build_batch
from synth_ray.runtime.blending import Blend, blended_mean, earned_by

numbers = st.floats(-10, 10)
factors = st.floats(0, 5)
judged = st.builds(JudgeScores, st.lists(numbers, min_size=2, max_size=2).map(tuple), numbers)
maybe = st.one_of(judged, st.just(NO_SCORES))


def blend_of(env: float, event: float, outcome: float) -> RewardBlend:
    assume(env or event or outcome)
    return RewardBlend(env=env, event=event, outcome=outcome)


def test_the_formula() -> None:
    weights = RewardBlend(env=0.2, event=0.4, outcome=0.4)
    scores = JudgeScores((0.5, 0.25), 0.5)
    assert blended_return(weights, 2.0, scores) == pytest.approx(0.2 * 2 + 0.4 * 0.75 + 0.4 * 0.5)
    assert blended_turns(weights, (1.0, 1.0), scores) == pytest.approx((0.4, 0.2 + 0.1 + 0.2))
    assert blended_return(RewardBlend(), 3.0, scores) == 3.0
    assert blended_turns(weights, (), JudgeScores(None, 1.0)) == ()


@given(factors, factors, factors, st.lists(numbers, min_size=2, max_size=2), judged)
def test_turns_sum_to_the_blend_of_their_return(a: float, b: float, c: float, rewards: Any, scores: Any) -> None:
    weights = blend_of(a, b, c)
    whole = blended_return(weights, math.fsum(rewards), scores)
    assert math.fsum(blended_turns(weights, rewards, scores)) == pytest.approx(whole, abs=1e-9)


@given(st.lists(maybe, min_size=1, max_size=6))
def test_missing_scores_take_the_groups_mean_and_change_no_other(group: list[JudgeScores]) -> None:
    full = filled(group, [2] * len(group))
    there = [one for one in group if one is not NO_SCORES]
    for before, after in zip(group, full, strict=True):
        if before is not NO_SCORES:
            assert after == before
        elif there:
            assert after.outcome == pytest.approx(math.fsum(one.outcome or 0.0 for one in there) / len(there))
            assert after.event_total == pytest.approx(
                math.fsum(one.event_total or 0.0 for one in there) / len(there), abs=1e-9
            )
        else:
            assert after == NO_SCORES


def test_filled_events_fit_the_turns_of_their_rollout() -> None:
    group = [JudgeScores((1.0, 0.0)), JudgeScores((0.0,)), NO_SCORES, NO_SCORES]
    full = filled(group, [2, 1, 1, 3])
    assert [one.event for one in full] == [(1.0, 0.0), (0.0,), (0.5,), (0.5, 0.0, 0.0)]


def rollout(name: str, outcome: float, rewards: tuple[float, ...] = (0.0, 0.0), problem: str | None = None) -> Rollout:
    def turn(at: int, reward: float) -> Turn:
        reply = Reply("x", prompt_ids=(1,), token_ids=(2,), logprobs=(-1.0,))
        return Turn(at, (), reply, StepFacts(("do",), problem=problem), RewardParts({"p": reward}), 0.0, 0.0)

    turns = tuple(turn(at, reward) for at, reward in enumerate(rewards))
    return Rollout(name, "r", "t", 0, "m", Provenance.ENGINE, turns, outcome, (), StopReason.TURNS, "", 0.0)


def config(**sections: Any) -> RLConfig:
    return validate(RLConfig, {"model": {"base": "m"}, **sections})


def advantages(group: list[Rollout], scores: Mapping[str, JudgeScores], strategy: str = "outcome") -> Any:
    blend = Blend(RewardBlend(env=1.0, event=1.0, outcome=2.0), scores)
    training = config(training={"advantage_scale": "none", "invalid_turn_penalty": 0.5}).training
    return dict(build_batch([group], training, RewardSpec(strategy), blend).advantages)


def test_a_judge_separates_what_the_world_does_not() -> None:
    group = [rollout("a", 1.0), rollout("b", 1.0)]
    assert advantages(group, {}) == {"a": (0.0, 0.0), "b": (0.0, 0.0)}
    scores = {"a": JudgeScores(None, 1.0), "b": JudgeScores(None, 0.0)}
    assert advantages(group, scores) == {"a": (1.0, 1.0), "b": (-1.0, -1.0)}


def test_a_failed_review_neither_helps_nor_harms() -> None:
    group = [rollout("a", 1.0), rollout("b", 1.0), rollout("c", 1.0)]
    scores = {"a": JudgeScores(None, 1.0), "b": JudgeScores(None, 0.0), "c": NO_SCORES}
    assert advantages(group, scores)["c"] == pytest.approx((0.0, 0.0))
    assert sorted(one[0] for one in advantages(group, scores).values()) == pytest.approx([-1.0, 0.0, 1.0])


def test_event_scores_land_on_their_turns_and_penalties_are_not_blended() -> None:
    group = [rollout("a", 0.0, (1.0, 0.0)), rollout("b", 0.0, (1.0, 0.0), problem="bad")]
    scores = {name: JudgeScores((0.0, 1.0), 0.5) for name in "ab"}
    earned = earned_by(group, Blend(RewardBlend(env=0.0, event=1.0, outcome=2.0), scores))
    assert [one.turn_rewards for one in earned] == [(0.0, 2.0)] * 2
    given_back = advantages(group, scores, "consistent")
    assert given_back["a"][1] == pytest.approx(0.25), "half of the penalty 0.5, whatever env is"


def test_the_mean_is_over_rollouts_and_of_what_trains() -> None:
    groups = [[rollout("a", 3.0, (1.0, 0.0))], [rollout("b", 1.0, (0.0, 0.0))]]
    blend = Blend(RewardBlend(env=0.5, outcome=1.0), {"a": JudgeScores(None, 1.0), "b": JudgeScores(None, 0.0)})
    assert blended_mean(groups, blend, stepwise=False) == pytest.approx((2.5 + 0.5) / 2)
    assert blended_mean(groups, blend, stepwise=True) == pytest.approx((1.5 + 0.0) / 2)


OPTIONS = {"provider": "openai", "model": "m", "rubric_id": "crafter"}


def test_sections_take_both_spellings_and_are_off_by_default() -> None:
    assert not config().judge.enabled
    assert config().reward_blend == RewardBlend(env=1, event=0, outcome=0)
    weights = {"env": 0.2, "event": 0.4, "outcome": 0.4}
    new = config(judge={"enabled": True, "timeout_s": 45, "options": OPTIONS, "reward_blend": weights})
    seed_style = {"metadata": {"run": "x"}, "tracks": ["process"], "max_concurrency": 6, "weights": {"process": 1}}
    old = config(
        judge={"enabled": True, "options": {**OPTIONS, **seed_style}}, rubric={"enabled": True, "weights": weights}
    )
    assert new.reward_blend == old.reward_blend == RewardBlend(env=0.2, event=0.4, outcome=0.4)
    assert config(rubric={"enabled": False, "weights": weights}).reward_blend == RewardBlend()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"judge": {"enabled": True}}, "needs .judge.options."),
        ({"judge": {"options": OPTIONS}}, "write enabled = true under .judge."),
        ({"judge": {"enabled": True, "options": {**OPTIONS, "event": False, "outcome": False}}}, "must be true"),
        ({"judge": {"enabled": True, "options": {**OPTIONS, "provider": "gemini"}}}, "give the URL"),
        ({"judge": {"enabled": True, "options": {**OPTIONS, "provider": "remote"}}}, "go together"),
        ({"judge": {"enabled": True, "options": {**OPTIONS, "timeout_s": 0}}}, "timeout_s"),
        ({"judge": {"enabled": True, "options": {**OPTIONS, "modle": "m"}}}, "unknown key 'judge.options.modle'"),
        ({"judge": {"reward_blend": {"env": 0}}}, "above 0"),
        ({"judge": {"reward_blend": {"env": -1, "event": 1}}}, "reward_blend.env"),
        ({"rubric": {"enabled": True, "weights": {"env": 1, "outcome": 1}}}, "judge.enabled is false"),
        ({"judge": {"enabled": True, "options": OPTIONS}, "rubric": {"path": "crafter"}}, "both name a rubric"),
        ({"rubric": {"path": "crafter", "inline": {"criteria": []}}}, "not both"),
    ],
)
def test_wrong_sections_are_named(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**sections)
