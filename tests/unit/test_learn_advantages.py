"""Advantages: group-relative, invariant to a constant, zero when nothing differs."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synth_ray.learn.advantages import (
    ADVANTAGES,
    EpisodeRewards,
    batch_advantages,
    outcome_advantages,
    returns_to_go,
    stepwise_advantages,
)

SETTINGS = settings(max_examples=60, deadline=None, database=None, derandomize=True)
REWARDS = st.integers(-40, 40).map(lambda tenths: tenths / 10)
OUTCOMES = st.lists(REWARDS, min_size=2, max_size=8)
EQUAL_LENGTH_TURNS = st.integers(1, 6).flatmap(
    lambda turns: st.lists(st.lists(REWARDS, min_size=turns, max_size=turns), min_size=2, max_size=6)
)
RAGGED_TURNS = st.lists(st.lists(REWARDS, min_size=1, max_size=6), min_size=2, max_size=6)
SCALES = st.sampled_from(["std", "none"])


def naive_stepwise(turn_rewards: list[list[float]], gamma: float, scale: str) -> list[list[float]]:
    """The same by the book: double sums, one number at a time."""
    longest = max(map(len, turn_rewards))
    returns = [
        [sum(gamma ** (k - t) * rewards[k] for k in range(t, len(rewards))) for t in range(longest)]
        for rewards in turn_rewards
    ]
    means = [sum(row[t] for row in returns) / len(returns) for t in range(longest)]
    centred = [[row[t] - means[t] for t in range(longest)] for row in returns]
    flat = [value for row in centred for value in row]
    std = (sum(value * value for value in flat) / len(flat)) ** 0.5
    divisor = std + 1e-4 if scale == "std" else 1.0
    return [
        [0.0 if std < 1e-8 else value / divisor for value in row[: len(rewards)]]
        for row, rewards in zip(centred, turn_rewards, strict=True)
    ]


@SETTINGS
@given(OUTCOMES, SCALES)
def test_outcome_has_zero_mean_over_the_group(outcomes: list[float], scale: str) -> None:
    advantages = outcome_advantages(outcomes, [1] * len(outcomes), scale)
    assert abs(np.mean(advantages)) < 1e-9


@SETTINGS
@given(OUTCOMES, SCALES, REWARDS)
def test_outcome_ignores_a_constant(outcomes: list[float], scale: str, shift: float) -> None:
    turns = [2] * len(outcomes)
    before = outcome_advantages(outcomes, turns, scale)
    after = outcome_advantages([outcome + shift for outcome in outcomes], turns, scale)
    np.testing.assert_allclose(before, after, atol=1e-9)


@SETTINGS
@given(OUTCOMES)
def test_outcome_has_unit_scale(outcomes: list[float]) -> None:
    std = np.std(outcomes)
    advantages = np.array(outcome_advantages(outcomes, [1] * len(outcomes), "std"))
    assert advantages.std() == pytest.approx(std / (std + 1e-4) if std > 1e-8 else 0.0)


@SETTINGS
@given(REWARDS, st.integers(1, 8), SCALES)
def test_equal_episodes_give_zeros(outcome: float, size: int, scale: str) -> None:
    group = [EpisodeRewards(outcome, (outcome, 0.1, outcome))] * size
    for function in ADVANTAGES.values():
        assert not np.any(function(group, 0.5, scale))


def test_better_outcome_is_positive_on_every_turn() -> None:
    better, worse = outcome_advantages([3.0, 1.0], [2, 3], "none")
    np.testing.assert_array_equal(better, [1.0, 1.0])
    np.testing.assert_array_equal(worse, [-1.0, -1.0, -1.0])


def test_returns_to_go_are_discounted() -> None:
    np.testing.assert_allclose(returns_to_go([1.0, 0.0, 4.0], 0.5), [2.0, 2.0, 4.0])


@SETTINGS
@given(RAGGED_TURNS, st.sampled_from([0.0, 0.5, 1.0]), SCALES)
def test_stepwise_equals_the_naive_formula(turn_rewards: list[list[float]], gamma: float, scale: str) -> None:
    advantages = stepwise_advantages(turn_rewards, gamma, scale)
    expected = naive_stepwise(turn_rewards, gamma, scale)
    assert [len(row) for row in advantages] == [len(row) for row in turn_rewards]
    for row, expected_row in zip(advantages, expected, strict=True):
        np.testing.assert_allclose(row, expected_row, atol=1e-9)


@SETTINGS
@given(EQUAL_LENGTH_TURNS, SCALES)
def test_stepwise_has_zero_mean_per_turn(turn_rewards: list[list[float]], scale: str) -> None:
    advantages = np.array(stepwise_advantages(turn_rewards, 0.5, scale))
    np.testing.assert_allclose(advantages.mean(axis=0), 0, atol=1e-9)


@SETTINGS
@given(EQUAL_LENGTH_TURNS, SCALES, REWARDS)
def test_stepwise_ignores_a_constant(turn_rewards: list[list[float]], scale: str, shift: float) -> None:
    before = stepwise_advantages(turn_rewards, 0.5, scale)
    after = stepwise_advantages([[reward + shift for reward in row] for row in turn_rewards], 0.5, scale)
    np.testing.assert_allclose(before, after, atol=1e-6)


def test_groups_do_not_see_each_other() -> None:
    first = [EpisodeRewards(1.0, (1.0,)), EpisodeRewards(0.0, (0.0,))]
    second = [EpisodeRewards(9.0, (9.0,)), EpisodeRewards(9.0, (9.0,))]
    for name, function in ADVANTAGES.items():
        batch = batch_advantages(name, [first, second], 0.5, "std")
        np.testing.assert_array_equal(batch[0], function(first, 0.5, "std"))
        assert not np.any(batch[1])


@pytest.mark.parametrize("name", ADVANTAGES)
def test_episodes_without_turns_are_allowed(name: str) -> None:
    group = [EpisodeRewards(0.0, ()), EpisodeRewards(1.0, ())]
    assert [len(row) for row in ADVANTAGES[name](group, 0.5, "std")] == [0, 0]
    assert ADVANTAGES[name]([], 0.5, "std") == []


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown scale 'max'"):
        outcome_advantages([1.0], [1], "max")
    with pytest.raises(ValueError, match="unknown advantage 'best'"):
        batch_advantages("best", [], 1.0, "std")


def test_the_coordinators_part_needs_no_torch() -> None:
    program = (
        "import sys; import synth_ray.learn.advantages, synth_ray.learn.packing, synth_ray.learn.model_files, "
        "synth_ray.learn.adapter_files; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
