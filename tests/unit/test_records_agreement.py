"""Agreement of judge scores with outcome rewards: against definitions, and under transformations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth_ray.records.agreement import agreement, area_under_curve, pearson, ranks

values = st.lists(st.tuples(st.integers(-20, 20).map(lambda n: n / 4), st.integers(0, 3)), min_size=2, max_size=25)


def split(pairs: list[tuple[float, int]]) -> tuple[list[float], list[float]]:
    return [a for a, _ in pairs], [float(b) for _, b in pairs]


def test_by_hand() -> None:
    found = agreement([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 2])
    assert (found.n, found.mean_score, found.mean_outcome) == (4, pytest.approx(0.4125), 0.75)
    assert found.auc == 0.75
    assert found.spearman == pytest.approx(0.6324555320336759)
    assert found.pearson == pytest.approx(float(np.corrcoef([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 2])[0, 1]))
    assert [one.n for one in found.bins] == [1, 1, 1, 0, 1]
    assert [one.success_rate for one in found.bins] == [0.0, 1.0, 0.0, None, 1.0]
    assert (found.bins[4].mean_outcome, found.bins[0].low, found.bins[4].high) == (2.0, 0.0, 1.0)


def test_what_is_not_defined_is_none() -> None:
    empty = agreement([], [])
    assert (empty.n, empty.pearson, empty.spearman, empty.auc, empty.mean_score) == (0, None, None, None, None)
    flat = agreement([0.5, 0.5], [0, 1])
    assert (flat.pearson, flat.spearman, flat.auc) == (None, None, 0.5)
    assert agreement([0.1, 0.2], [1, 2]).auc is None
    with pytest.raises(ValueError, match="1 scores for 2"):
        agreement([1.0], [1.0, 2.0])


@given(values)
def test_against_the_definitions(pairs: list[tuple[float, int]]) -> None:
    scores, outcomes = split(pairs)
    found = agreement(scores, outcomes)
    if len(set(scores)) > 1 and len(set(outcomes)) > 1:
        assert found.pearson == pytest.approx(float(np.corrcoef(scores, outcomes)[0, 1]), abs=1e-9)
    good = [a for a, b in pairs if b > 0]
    bad = [a for a, b in pairs if b == 0]
    if good and bad:
        wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in itertools.product(good, bad)]
        assert found.auc == pytest.approx(math.fsum(wins) / len(wins))
    smaller = [sum(b < a for b in scores) + (sum(b == a for b in scores) + 1) / 2 for a in scores]
    assert ranks(np.array(scores)).tolist() == smaller


@given(values)
def test_order_statistics_see_only_the_order(pairs: list[tuple[float, int]]) -> None:
    scores, outcomes = split(pairs)
    before, after = agreement(scores, outcomes), agreement([math.exp(one) for one in scores], outcomes)
    assert after.auc == before.auc
    assert after.spearman == before.spearman
    flipped = agreement([-one for one in scores], outcomes)
    if before.auc is not None and flipped.auc is not None and before.pearson is not None:
        assert flipped.auc == pytest.approx(1 - before.auc)
        assert flipped.pearson == pytest.approx(-before.pearson)


@given(values)
def test_the_table_holds_every_rollout_once(pairs: list[tuple[float, int]]) -> None:
    scores, outcomes = split(pairs)
    bins = agreement(scores, outcomes).bins
    assert sum(one.n for one in bins) == len(scores)
    for one in bins:
        inside = [a for a in scores if one.low <= a < one.high or (one is bins[-1] and a == one.high)]
        assert abs(one.n - len(inside)) <= sum(math.isclose(a, edge, abs_tol=1e-9) for a in scores
                                               for edge in (one.low, one.high))  # fmt: skip
    assert math.fsum((one.mean_outcome or 0.0) * one.n for one in bins) == pytest.approx(math.fsum(outcomes))


def test_extreme_numbers() -> None:
    huge = np.array([1e308, -1e308, 0.0])
    assert pearson(huge, np.array([1.0, -1.0, 0.0])) == pytest.approx(1.0)
    tiny = np.array([1e-200, 2e-200, 3e-200])
    assert pearson(tiny, np.array([1.0, 2.0, 3.0])) == pytest.approx(1.0)
    assert area_under_curve(huge, np.array([True, False, False])) == 1.0
