"""Whether a judge agrees with the outcome reward: correlations, separation, and a table by score. Pure.

Correlations say whether the judge orders rollouts as the reward does; the area under the curve whether it tells those
with an achievement from those without; the table what a score of the judge stands for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_BINS = 5


@dataclass(frozen=True, slots=True)
class Bin:
    """The rollouts whose judge score is in [low, high); the last bin has its high end too. Means are None if n is 0."""

    low: float
    high: float
    n: int
    mean_score: float | None
    mean_outcome: float | None
    success_rate: float | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """``n`` rollouts with both numbers. A statistic is None where it is not defined (no spread, one class only)."""

    n: int
    mean_score: float | None
    mean_outcome: float | None
    pearson: float | None
    spearman: float | None
    auc: float | None
    bins: tuple[Bin, ...]


def agreement(scores: Sequence[float], outcomes: Sequence[float], bins: int = _BINS) -> Agreement:
    """Judge ``scores`` against outcome rewards; an outcome above 0 is a success. ValueError for unequal lengths."""
    if len(scores) != len(outcomes):
        raise ValueError(f"{len(scores)} scores for {len(outcomes)} outcomes")
    x, y = np.asarray(scores, dtype=np.float64), np.asarray(outcomes, dtype=np.float64)
    return Agreement(
        n=len(x),
        mean_score=_mean(x),
        mean_outcome=_mean(y),
        pearson=pearson(x, y),
        spearman=pearson(ranks(x), ranks(y)),
        auc=area_under_curve(x, y > 0),
        bins=_table(x, y, bins),
    )


def pearson(x: Array, y: Array) -> float | None:
    """The correlation of two equally long arrays; None if one of them does not vary."""
    if len(x) < 2 or bool((x == x[0]).all()) or bool((y == y[0]).all()):
        return None
    a, b = _centred(x), _centred(y)
    spread = math.sqrt(float(a @ a)) * math.sqrt(float(b @ b))
    return None if spread == 0 else max(-1.0, min(1.0, float(a @ b) / spread))


def ranks(values: Array) -> Array:
    """Ranks from 1; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shared: Array = (last - (counts - 1) / 2.0)[place]
    return shared


def area_under_curve(scores: Array, success: NDArray[np.bool_]) -> float | None:
    """Probability that a success scores above a failure, ties as one half (Mann-Whitney); None without both."""
    good = int(success.sum())
    bad = len(scores) - good
    if good == 0 or bad == 0:
        return None
    return (float(ranks(scores)[success].sum()) - good * (good + 1) / 2) / (good * bad)


def _centred(values: Array) -> Array:
    scaled: Array = values / max(1e-300, float(np.abs(values).max()))  # so that squares neither over- nor underflow
    centred: Array = scaled - scaled.mean()
    return centred


def _table(scores: Array, outcomes: Array, bins: int) -> tuple[Bin, ...]:
    """Bins of equal width from 0 to 1, or as far as the scores reach."""
    low, high = min(0.0, float(scores.min(initial=0.0))), max(1.0, float(scores.max(initial=1.0)))
    edges = np.linspace(low, high, bins + 1)
    place = np.clip(np.searchsorted(edges, scores, side="right") - 1, 0, bins - 1)
    return tuple(
        _bin(float(edges[at]), float(edges[at + 1]), scores[place == at], outcomes[place == at]) for at in range(bins)
    )


def _bin(low: float, high: float, scores: Array, outcomes: Array) -> Bin:
    return Bin(low, high, len(scores), _mean(scores), _mean(outcomes), _mean((outcomes > 0).astype(np.float64)))


def _mean(values: Array) -> float | None:
    return float(values.mean()) if len(values) else None
