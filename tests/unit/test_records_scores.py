from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synth_ray.core.errors import NotFoundError
from synth_ray.core.types import Provenance, Reply, RewardParts, Rollout, StepFacts, StopReason, Turn
from synth_ray.records.scores import compare, geometric_score, summary


def turn(actions: int = 2, problem: str | None = None) -> Turn:
    return Turn(0, (), Reply(""), StepFacts(("up",) * actions, problem=problem), RewardParts(), 1.0, 1.0)


def rollout(seed: int, outcome: float, **changes: Any) -> Rollout:
    base = Rollout(
        f"r{seed}", "run", "crafter", seed, "m", Provenance.ENGINE, (turn(),), outcome, (), StopReason.TURNS, "", 1.0
    )
    return replace(base, **changes)


def test_a_summary_by_hand() -> None:
    scores = summary(
        [
            rollout(1, 1.0, achievements=("wood",), turns=(turn(3), turn(0, "bad"))),
            rollout(2, 3.0, achievements=("wood", "stone"), stop_reason=StopReason.DONE),
            rollout(3, 99.0, stop_reason=StopReason.ERROR),
            rollout(4, 99.0, stop_reason=StopReason.CANCELLED),
            rollout(5, 99.0, stop_reason=StopReason.DEADLINE),
        ]
    )
    assert (scores.mean, scores.n, scores.errors) == (2.0, 2, 3)
    assert scores.se == pytest.approx(1.0)  # standard deviation sqrt(2), over sqrt(2)
    assert scores.achievement_rates == {"stone": 0.5, "wood": 1.0}
    assert scores.invalid_turn_rate == pytest.approx(1 / 3)
    assert scores.mean_actions == 2.5


def test_summaries_of_few() -> None:
    nothing = summary([rollout(1, 5.0, stop_reason=StopReason.ERROR)])
    assert (nothing.mean, nothing.se, nothing.n, nothing.errors, nothing.mean_actions) == (0.0, 0.0, 0, 1, 0.0)
    assert (summary([rollout(1, 5.0)]).mean, summary([rollout(1, 5.0)]).se) == (5.0, 0.0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=20))
def test_mean_and_error_are_the_textbook_ones(outcomes: list[float]) -> None:
    scores = summary([rollout(at, one) for at, one in enumerate(outcomes)])
    assert scores.mean == pytest.approx(statistics.fmean(outcomes), abs=1e-9)
    assert scores.se == pytest.approx(statistics.stdev(outcomes) / math.sqrt(len(outcomes)), abs=1e-9)


def test_geometric_scores() -> None:
    names = ["a", "b"]
    assert geometric_score({}, names) == 0.0
    assert geometric_score({"a": 1.0, "b": 1.0}, names) == pytest.approx(100.0)
    assert geometric_score({"a": 1.0, "other": 1.0}, names) == pytest.approx(math.sqrt(101.0) - 1.0)
    with pytest.raises(ValueError, match="at least one"):
        geometric_score({}, [])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=22))
def test_a_geometric_score_is_the_formula(rates: list[float]) -> None:
    named = {str(at): rate for at, rate in enumerate(rates)}
    expected = math.exp(np.mean(np.log(1 + 100 * np.array(rates)))) - 1
    assert geometric_score(named, list(named)) == pytest.approx(expected, abs=1e-9)


def test_a_clear_difference() -> None:
    a = [rollout(seed, seed % 3) for seed in range(30)]
    b = [rollout(seed, seed % 3 + 1.0 + (seed % 2) / 10) for seed in range(5, 40)]
    found = compare(a, b)
    assert found.n_common == 25
    assert found.difference == pytest.approx(statistics.fmean(1.0 + (seed % 2) / 10 for seed in range(5, 30)))
    assert 1.0 <= found.low < found.difference < found.high <= 1.1  # pairs take the spread between seeds out
    error = math.hypot(summary(a).se, summary(b).se)
    assert found.z == pytest.approx((summary(b).mean - summary(a).mean) / error)
    assert compare(a, b) == found
    back = compare(b, a)
    assert back.difference == -found.difference


def test_seeds_count_once_and_errors_never() -> None:
    a = [rollout(1, 0.0), rollout(1, 2.0), rollout(2, 5.0)]
    b = [rollout(1, 4.0), rollout(2, 99.0, stop_reason=StopReason.ERROR)]
    found = compare(a, b)
    assert (found.difference, found.low, found.high, found.n_common, found.z) == (3.0, 3.0, 3.0, 1, None)
    assert compare([rollout(1, 1.0), rollout(2, 1.0)], [rollout(1, 1.0), rollout(2, 1.0)]).z is None
    with pytest.raises(NotFoundError, match="no scored seed in common"):
        compare([rollout(1, 0.0)], [rollout(2, 0.0)])


def test_the_interval_covers_the_truth() -> None:
    generator = np.random.default_rng(7)
    covered = 0
    for _ in range(100):
        noise = generator.normal(0.5, 1.0, 40)
        found = compare([rollout(at, 0.0) for at in range(40)], [rollout(at, one) for at, one in enumerate(noise)], 500)
        covered += found.low <= 0.5 <= found.high
    assert 86 <= covered <= 100
