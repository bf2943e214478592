"""What a rollout is worth when a judge has a say: ``env * return + event * sum(event scores) + outcome * score``.

A failed review is no review of 0. Rewards train by comparison within a group, so a missing score is filled with the
mean of the group's scores: it then speaks neither for nor against the rollout, whose place in the group is decided by
its environment return, with the weight ``env``. Where nobody in a group has a score, the part is left out. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from synth_ray.core.judge_sections import RewardBlend
from synth_ray.rollout.judge.review import JudgeScores


def blended_return(weights: RewardBlend, env_return: float, scores: JudgeScores) -> float:
    """The blend for a whole rollout; a part without a score adds nothing."""
    event, outcome = scores.event_total or 0.0, scores.outcome or 0.0
    return math.fsum((weights.env * env_return, weights.event * event, weights.outcome * outcome))


def blended_turns(weights: RewardBlend, turn_rewards: Sequence[float], scores: JudgeScores) -> tuple[float, ...]:
    """The same per turn: event scores belong to their turns, the outcome score to the last; the sum is the blend.

    Raises ValueError if there is another number of event scores than of turns.
    """
    events = scores.event if scores.event is not None else (0.0,) * len(turn_rewards)
    paid = [weights.env * reward + weights.event * event for reward, event in zip(turn_rewards, events, strict=True)]
    if paid:
        paid[-1] += weights.outcome * (scores.outcome or 0.0)
    return tuple(paid)


def filled(scores: Sequence[JudgeScores], n_turns: Sequence[int]) -> list[JudgeScores]:
    """The scores of a group, those that are missing replaced by the group's means (turn by turn for events)."""
    outcomes = [one.outcome for one in scores if one.outcome is not None]
    mean = math.fsum(outcomes) / len(outcomes) if outcomes else None
    by_turn = _means_by_turn([one.event for one in scores if one.event is not None], max(n_turns, default=0))
    return [
        JudgeScores(
            one.event if one.event is not None or by_turn is None else by_turn[:turns],
            one.outcome if one.outcome is not None else mean,
        )
        for one, turns in zip(scores, n_turns, strict=True)
    ]


def _means_by_turn(events: Sequence[tuple[float, ...]], longest: int) -> tuple[float, ...] | None:
    """A turn that no judged rollout reached counts as 0."""
    if not events:
        return None
    columns = [[one[at] for one in events if at < len(one)] for at in range(longest)]
    return tuple(math.fsum(column) / len(column) if column else 0.0 for column in columns)
