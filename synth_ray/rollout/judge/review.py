"""What a judge says of one rollout, and the scores in it. A failed review has no scores: it is not a review of 0."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_MAX_REASON = 2000


@dataclass(frozen=True, slots=True)
class Scored:
    """One criterion's score, with the weight and description that it had."""

    score: float
    reason: str
    weight: float
    description: str


@dataclass(frozen=True, slots=True)
class PartReview:
    """The review of a turn or of a whole rollout; ``missing`` are criteria that the judge left out."""

    criteria: Mapping[str, Scored]
    total: float
    missing: tuple[str, ...] = ()
    summary: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The JSON shape."""
        scored = {
            name: {"score": one.score, "reason": one.reason, "weight": one.weight, "description": one.description}
            for name, one in self.criteria.items()
        }
        return {"criteria": scored, "total": self.total, "missing": list(self.missing), "summary": self.summary}


@dataclass(frozen=True, slots=True)
class JudgeScores:
    """The numbers of a review: one per turn, and one for the rollout; None where there is none."""

    event: tuple[float, ...] | None = None
    outcome: float | None = None

    @property
    def event_total(self) -> float | None:
        """Sum over the turns."""
        return None if self.event is None else math.fsum(self.event)


NO_SCORES = JudgeScores()


@dataclass(frozen=True, slots=True)
class Review:
    """One judge's answer. ``kind`` and ``reason`` say why a review failed; both are empty for one that did not.

    ``event_reviews`` is None if turns were not judged, else there is one per turn.
    """

    event_reviews: tuple[PartReview, ...] | None = None
    outcome_review: PartReview | None = None
    kind: str = ""
    reason: str = ""
    cached: bool = False

    @property
    def ok(self) -> bool:
        """Whether there are scores."""
        return not self.kind

    @property
    def scores(self) -> JudgeScores:
        """The numbers; none if the review failed."""
        if not self.ok:
            return NO_SCORES
        events = None if self.event_reviews is None else tuple(one.total for one in self.event_reviews)
        return JudgeScores(events, None if self.outcome_review is None else self.outcome_review.total)

    def as_dict(self) -> dict[str, Any]:
        """The JSON shape: status, event_reviews, outcome_review, event_totals, details."""
        events = self.event_reviews or ()
        problem = {} if self.ok else {"kind": self.kind, "reason": self.reason}
        return {
            "status": "ok" if self.ok else "failed",
            "event_reviews": [one.as_dict() for one in events],
            "outcome_review": self.outcome_review.as_dict() if self.outcome_review else None,
            "event_totals": [one.total for one in events],
            "details": {"cached": self.cached, **problem},
        }


def review_from(value: Mapping[str, Any]) -> Review:
    """The review that ``Review.as_dict`` made ``value`` of. Raises KeyError or TypeError for anything else."""
    events, outcome, details = value["event_reviews"], value["outcome_review"], value["details"]
    return Review(tuple(_part_from(one) for one in events) or None, outcome and _part_from(outcome), **details)


def failed(kind: str, reason: str) -> Review:
    """A review without scores; ``kind`` is one word for counts, ``reason`` one line for people."""
    return Review(kind=kind, reason=reason)


def _part_from(value: Mapping[str, Any]) -> PartReview:
    criteria = {name: Scored(**one) for name, one in value["criteria"].items()}
    return PartReview(criteria, value["total"], tuple(value["missing"]), value["summary"])


def shortened(text: str) -> str:
    """A judge's words, fit to be kept."""
    return text if len(text) <= _MAX_REASON else f"{text[:_MAX_REASON]}..."
