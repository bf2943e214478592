"""From reviews to what a group's episodes earned, before penalties and advantages. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from synth_ray.core.judge_sections import RewardBlend
from synth_ray.core.types import Rollout
from synth_ray.learn.advantages import EpisodeRewards
from synth_ray.rollout.judge.blend import blended_return, blended_turns, filled
from synth_ray.rollout.judge.review import NO_SCORES, JudgeScores


@dataclass(frozen=True)
class Blend:
    """How much the judge counts, and its scores by rollout id."""

    weights: RewardBlend
    scores: Mapping[str, JudgeScores]


def earned_by(group: Sequence[Rollout], blend: Blend | None = None) -> list[EpisodeRewards]:
    """What each episode of a group earned: outcome and ledger totals, or their blend with the judge's scores."""
    plain = [EpisodeRewards(rollout.outcome, tuple(turn.reward.total for turn in rollout.turns)) for rollout in group]
    if blend is None:
        return plain
    given = [blend.scores.get(rollout.rollout_id, NO_SCORES) for rollout in group]
    scores = filled(given, [len(rollout.turns) for rollout in group])
    return [
        EpisodeRewards(
            blended_return(blend.weights, one.outcome, judged), blended_turns(blend.weights, one.turn_rewards, judged)
        )
        for one, judged in zip(plain, scores, strict=True)
    ]


def blended_mean(groups: Sequence[Sequence[Rollout]], blend: Blend, stepwise: bool) -> float:
    """The mean blend per rollout: of ledger totals if turns are paid one by one, else of outcomes."""
    earned = [one for group in groups for one in earned_by(group, blend)]
    totals = [math.fsum(one.turn_rewards) if stepwise else one.outcome for one in earned]
    return math.fsum(totals) / len(totals)
