"""Rubrics: what a judge scores, and how its scores become one number.

Invariants: a criterion without a score is missing, not 0: the others stand for it, and the result names it. Without a
score for a required criterion there is no total; a required criterion that scored 0 makes the total 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from synth_ray.core.hashing import canonical_json, sha256_text

_MOST_COUNTED = 100.0

SCALES: Mapping[str, Callable[[float], bool]] = {
    "binary": lambda score: score in (0.0, 1.0),
    "bounded": lambda score: 0.0 <= score <= 1.0,
    "count": lambda score: 0.0 <= score <= _MOST_COUNTED and score == int(score),
    "custom": lambda score: 0.0 <= score <= 1.0,
}
SCALE_WORDS: Mapping[str, str] = {
    "binary": "0 or 1",
    "bounded": "a number from 0 to 1",
    "count": "a whole number from 0 to 100",
    "custom": "a number from 0 to 1, as the description says",
}


@dataclass(frozen=True, slots=True)
class Criterion:
    """One thing to score. ``scale`` is a name in ``SCALES``; ``weight`` is above 0."""

    id: str
    description: str
    weight: float = 1.0
    required: bool = False
    scale: str = "bounded"


@dataclass(frozen=True, slots=True)
class Rubric:
    """Criteria with distinct ids, and the name of their aggregation in ``AGGREGATIONS``."""

    criteria: tuple[Criterion, ...]
    aggregation: str = "weighted_sum"
    goal: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Rubrics:
    """What one judge scores: every turn (``event``), the whole rollout (``outcome``), or both."""

    event: Rubric | None = None
    outcome: Rubric | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of the content."""
        return sha256_text(canonical_json(asdict(self)))


@dataclass(frozen=True, slots=True)
class Total:
    """``value`` is None if there is none; ``missing`` are the criteria that others stand for, in the rubric's order."""

    value: float | None
    missing: tuple[str, ...] = ()


def aggregate(rubric: Rubric, scores: Mapping[str, float]) -> Total:
    """The total of ``scores`` by criterion id. Raises ValueError for ids that the rubric does not have."""
    if unknown := sorted(scores.keys() - {one.id for one in rubric.criteria}):
        raise ValueError(f"the rubric has no criterion {unknown[0]!r}")
    missing = tuple(one.id for one in rubric.criteria if one.id not in scores)
    required = [one.id for one in rubric.criteria if one.required]
    if not scores or any(name in missing for name in required):
        return Total(None, missing)
    if any(scores[name] == 0 for name in required):
        return Total(0.0, missing)
    return Total(AGGREGATIONS[rubric.aggregation](rubric, scores), missing)


def _weighted_sum(rubric: Rubric, scores: Mapping[str, float]) -> float:
    """The weighted mean of the scores that are there."""
    heaviest = max(one.weight for one in rubric.criteria)
    present = [(one.weight / heaviest, scores[one.id]) for one in rubric.criteria if one.id in scores]
    return math.fsum(weight * score for weight, score in present) / math.fsum(weight for weight, _ in present)


def _sum(rubric: Rubric, scores: Mapping[str, float]) -> float:
    """The sum of the scores that are there, scaled up to the number of criteria."""
    return math.fsum(scores.values()) * len(rubric.criteria) / len(scores)


AGGREGATIONS: Mapping[str, Callable[[Rubric, Mapping[str, float]], float]] = {
    "weighted_sum": _weighted_sum,
    "sum": _sum,
}
