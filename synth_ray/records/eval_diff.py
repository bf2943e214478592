"""Two evaluations on the same seeds: which one is better, by how much, and in which achievements.

Seeds are paired: a seed that both played counts with the difference of its two scores, and the bootstrap resamples
seeds. Several episodes of one seed count as their mean. Only episodes that ran to a regular end count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from synth_ray.core.errors import NotFoundError
from synth_ray.records.sessions import Session

RESAMPLES = 10_000
_CHUNK = 500
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Difference:
    """B minus A over the common seeds; ``low`` and ``high`` bound its paired bootstrap 95 % interval."""

    name: str
    a: float
    b: float
    difference: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, slots=True)
class EvalDiff:
    """``score`` is the outcome reward; ``achievements`` are rates of episodes, largest change first.

    ``better``, ``worse`` and ``equal`` count seeds; ``only_a`` and ``only_b`` seeds that were left out.
    """

    score: Difference
    achievements: tuple[Difference, ...]
    n_common: int
    better: int
    worse: int
    equal: int
    only_a: int
    only_b: int


def eval_diff(a: Iterable[Session], b: Iterable[Session], resamples: int = RESAMPLES, seed: int = 0) -> EvalDiff:
    """B against A. Raises NotFoundError if no seed was scored on both sides."""
    seeds_a, seeds_b = _by_seed(a), _by_seed(b)
    common = sorted(seeds_a.keys() & seeds_b.keys())
    if not common:
        raise NotFoundError("the two evaluations have no scored seed in common", "evaluate both on the same seeds")
    names = sorted({name for side in (seeds_a, seeds_b) for one in common for name in _achieved(side[one])})
    values_a = np.array([_values(seeds_a[one], names) for one in common])
    values_b = np.array([_values(seeds_b[one], names) for one in common])
    score, *rates = _differences(["score", *names], values_a, values_b, resamples, seed)
    signs = np.sign(values_b[:, 0] - values_a[:, 0])
    return EvalDiff(
        score=score,
        achievements=tuple(sorted(rates, key=lambda one: (-abs(one.difference), one.name))),
        n_common=len(common),
        better=int((signs > 0).sum()),
        worse=int((signs < 0).sum()),
        equal=int((signs == 0).sum()),
        only_a=len(seeds_a.keys() - seeds_b.keys()),
        only_b=len(seeds_b.keys() - seeds_a.keys()),
    )


def _by_seed(sessions: Iterable[Session]) -> dict[int, list[Session]]:
    by_seed: dict[int, list[Session]] = {}
    for session in sessions:
        if session.stop_reason.regular:
            by_seed.setdefault(session.seed, []).append(session)
    return by_seed


def _achieved(sessions: Sequence[Session]) -> set[str]:
    return {name for session in sessions for name in session.achievements}


def _values(sessions: Sequence[Session], names: Sequence[str]) -> list[float]:
    rows = [[session.outcome, *(float(name in session.achievements) for name in names)] for session in sessions]
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def _differences(names: Sequence[str], a: Floats, b: Floats, resamples: int, seed: int) -> list[Difference]:
    low, high = _bootstrap(b - a, resamples, seed)
    columns = (a.mean(axis=0), b.mean(axis=0), (b - a).mean(axis=0), low, high)
    return [Difference(name, *map(float, row)) for name, row in zip(names, zip(*columns, strict=True), strict=True)]


def _bootstrap(values: Floats, resamples: int, seed: int) -> tuple[Floats, Floats]:
    """Percentile bounds of the column means of ``values`` (seeds x quantities): all columns resample the same seeds."""
    generator, n = np.random.default_rng(seed), len(values)
    sizes = [min(_CHUNK, resamples - start) for start in range(0, resamples, _CHUNK)]  # bounds the memory
    means = [generator.multinomial(n, np.full(n, 1 / n), size) @ values / n for size in sizes]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975], axis=0)
    return low, high
