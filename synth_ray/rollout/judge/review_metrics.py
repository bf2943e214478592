"""What the reviews of a training step say in sum. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from synth_ray.rollout.judge.review import Review


def review_metrics(reviews: Mapping[str, Review]) -> dict[str, float | None]:
    """Means of the scores that are there (None if there are none), and how many reviews failed or were cached."""
    every = list(reviews.values())
    scores = [review.scores for review in every]
    return {
        "judge/outcome/mean": _mean([one.outcome for one in scores if one.outcome is not None]),
        "judge/event/mean": _mean([one.event_total for one in scores if one.event_total is not None]),
        "judge/reviews": float(len(every)),
        "judge/failed": float(sum(not review.ok for review in every)),
        "judge/cached": float(sum(review.cached for review in every)),
    }


def failures(reviews: Sequence[Review]) -> dict[str, int]:
    """How many reviews failed, by kind."""
    kinds = [review.kind for review in reviews if not review.ok]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
