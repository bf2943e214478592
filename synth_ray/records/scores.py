"""What evaluations say: means with their uncertainty, achievement rates, and whether one model beats another.

Only scored episodes count: those that ran to a regular end. The others are counted apart as errors, because their
outcome says nothing about the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from synth_ray.core.errors import NotFoundError
from synth_ray.core.types import Rollout

_CHUNK = 256


@dataclass(frozen=True, slots=True)
class EvalSummary:
    """Scores of one evaluation over ``n`` scored episodes.

    ``se`` is the standard error of ``mean`` (sample standard deviation / sqrt(n)); 0.0 when n < 2, where it is unknown.
    ``invalid_turn_rate`` is the fraction of turns with an unusable reply, ``mean_actions`` actions per episode.
    """

    mean: float
    se: float
    n: int
    achievement_rates: Mapping[str, float]
    invalid_turn_rate: float
    mean_actions: float
    errors: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """b against a. ``difference`` is mean(b) - mean(a) over the ``n_common`` seeds that both played.

    ``low`` and ``high`` bound its paired bootstrap 95 % interval. ``z`` is the unpaired z-score over all scored
    episodes, None if either side has fewer than two or neither varies.
    """

    difference: float
    low: float
    high: float
    n_common: int
    z: float | None


def summary(rollouts: Iterable[Rollout]) -> EvalSummary:
    """Scores of an evaluation; all zero if no episode was scored."""
    everything = list(rollouts)
    scored = _scored(everything)
    n = len(scored)
    turns = [turn for rollout in scored for turn in rollout.turns]
    names = sorted({name for rollout in scored for name in rollout.achievements})
    mean, se = _mean_and_error([rollout.outcome for rollout in scored])
    return EvalSummary(
        mean=mean,
        se=se,
        n=n,
        achievement_rates={name: sum(name in rollout.achievements for rollout in scored) / n for name in names},
        invalid_turn_rate=sum(turn.facts.problem is not None for turn in turns) / max(1, len(turns)),
        mean_actions=sum(len(turn.facts.actions) for turn in turns) / max(1, n),
        errors=len(everything) - n,
    )


def geometric_score(rates: Mapping[str, float], names: Sequence[str]) -> float:
    """exp(mean(log(1 + 100 * rate))) - 1 over ``names``, in percent: rare achievements count as much as common ones.

    A name without a rate counts as 0. Raises ValueError if ``names`` is empty.
    """
    if not names:
        raise ValueError("a geometric score needs at least one name")
    return math.expm1(math.fsum(math.log1p(100.0 * rates.get(name, 0.0)) for name in names) / len(names))


def compare(a: Iterable[Rollout], b: Iterable[Rollout], resamples: int = 10_000, seed: int = 0) -> Comparison:
    """Whether b beats a. Several episodes of one seed count as their mean.

    Raises NotFoundError if no seed was scored on both sides.
    """
    scored_a, scored_b = _scored(a), _scored(b)
    means_a, means_b = _mean_by_seed(scored_a), _mean_by_seed(scored_b)
    common = sorted(means_a.keys() & means_b.keys())
    if not common:
        raise NotFoundError("the two evaluations have no scored seed in common", "evaluate both on the same seeds")
    differences = np.array([means_b[one] - means_a[one] for one in common])
    low, high = _bootstrap_interval(differences, resamples, seed)
    z = _z_score([rollout.outcome for rollout in scored_a], [rollout.outcome for rollout in scored_b])
    return Comparison(float(differences.mean()), low, high, len(common), z)


def _scored(rollouts: Iterable[Rollout]) -> list[Rollout]:
    return [rollout for rollout in rollouts if rollout.ok]


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    n = len(values)
    if n == 0:
        return 0.0, 0.0
    mean = math.fsum(values) / n
    if n == 1:
        return mean, 0.0
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return mean, math.sqrt(variance / n)


def _mean_by_seed(rollouts: Iterable[Rollout]) -> dict[int, float]:
    by_seed: dict[int, list[float]] = {}
    for rollout in rollouts:
        by_seed.setdefault(rollout.seed, []).append(rollout.outcome)
    return {seed: math.fsum(outcomes) / len(outcomes) for seed, outcomes in by_seed.items()}


def _bootstrap_interval(values: npt.NDArray[np.float64], resamples: int, seed: int) -> tuple[float, float]:
    generator = np.random.default_rng(seed)
    sizes = [min(_CHUNK, resamples - start) for start in range(0, resamples, _CHUNK)]  # bounds the memory
    means = [values[generator.integers(0, len(values), (size, len(values)))].mean(axis=1) for size in sizes]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)


def _z_score(a: Sequence[float], b: Sequence[float]) -> float | None:
    mean_a, error_a = _mean_and_error(a)
    mean_b, error_b = _mean_and_error(b)
    spread = math.hypot(error_a, error_b)
    return None if min(len(a), len(b)) < 2 or spread == 0.0 else (mean_b - mean_a) / spread
