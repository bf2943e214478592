"""The judges of an evaluation: each scores every finished rollout, and is measured against the outcome reward."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from synth_ray.core.types import Rollout
from synth_ray.records.agreement import agreement
from synth_ray.rollout.judge.judge import Judge
from synth_ray.rollout.judge.review import Review, review_from
from synth_ray.rollout.judge.review_metrics import failures
from synth_ray.runtime.judging import JudgePlan, start_judge


class Panel:
    """Judges by name. Belongs to one event loop."""

    def __init__(self, plans: Mapping[str, JudgePlan]) -> None:
        self._plans = dict(plans)
        self._judges: dict[str, Judge] = {name: start_judge(plan) for name, plan in plans.items()}
        self._reviews: dict[str, dict[str, Review]] = {name: {} for name in plans}

    def recall(self, rollout_id: str, stored: Mapping[str, Any]) -> bool:
        """Takes over the reviews that are stored with a rollout, but not those that failed.

        Says whether there is one of every judge, so that nobody need be asked.
        """
        for name, reviews in self._reviews.items():
            if name in stored and (review := review_from(stored[name])).ok:
                reviews[rollout_id] = review
        return all(rollout_id in reviews for reviews in self._reviews.values())

    async def review(self, rollout: Rollout) -> dict[str, Any]:
        """What is stored with the rollout: scores and whole reviews by judge; nothing if it did not end regularly.

        Judges whose review was recalled are not asked.
        """
        if not self._judges or not rollout.ok:
            return {}
        names = list(self._judges)
        reviews = await asyncio.gather(*(self._one(name, rollout) for name in names))
        scores: dict[str, float | None] = {}
        for name, review in zip(names, reviews, strict=True):
            scores |= named_scores(name, review)
        shown = {name: review.as_dict() for name, review in zip(names, reviews, strict=True)}
        return {"judge_scores": scores, "judge_reviews": shown}

    def report(self, rollouts: Sequence[Rollout]) -> dict[str, Any]:
        """Per judge how its scores agree with the outcome rewards, and what failed."""
        return {name: calibration(rollouts, reviews) for name, reviews in self._reviews.items()}

    async def aclose(self) -> None:
        """Closes all connections."""
        for judge in self._judges.values():
            await judge.aclose()

    async def _one(self, name: str, rollout: Rollout) -> Review:
        recalled = self._reviews[name].get(rollout.rollout_id)
        review = recalled or await self._judges[name].review(rollout, self._plans[name].options.max_seconds)
        self._reviews[name][rollout.rollout_id] = review
        return review


def score_of(review: Review) -> float | None:
    """A review as one number: the outcome score, or else the sum of the event scores."""
    scores = review.scores
    return scores.outcome if scores.outcome is not None else scores.event_total


def named_scores(name: str, review: Review) -> dict[str, float | None]:
    """``name`` for the review as one number; ``name.event`` for the events if both parts were judged."""
    scores = review.scores
    both = scores.outcome is not None and scores.event_total is not None
    return {name: score_of(review), **({f"{name}.event": scores.event_total} if both else {})}


def calibration(rollouts: Sequence[Rollout], reviews: Mapping[str, Review]) -> dict[str, Any]:
    """Agreement of a judge with the outcome reward over the rollouts that it scored, as JSON."""
    pairs = [
        (score, rollout.outcome)
        for rollout in rollouts
        if (review := reviews.get(rollout.rollout_id)) and (score := score_of(review)) is not None
    ]
    found = agreement([score for score, _ in pairs], [outcome for _, outcome in pairs])
    failed = failures(list(reviews.values()))
    return {
        **asdict(found),
        "reviews": len(reviews),
        "failed": sum(failed.values()),
        "failures": failed,
        "first_failure": next((review.reason for review in reviews.values() if not review.ok), None),
        "cached": sum(review.cached for review in reviews.values()),
    }
