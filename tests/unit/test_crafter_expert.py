"""The expert's level, what it may see, and the score."""

from __future__ import annotations

import math

import pytest

from envs.crafter.expert import RULES, Expert
from envs.crafter.rules import ACHIEVEMENTS, ACTION_ID
from envs.crafter.score import crafter_score, success_rates
from envs.crafter.world import CrafterWorld

EVAL_SEED = 100_000


def play(seed: int, steps: int, per_look: int, mode: str) -> tuple[str, ...]:
    world = CrafterWorld(seed=seed, length=None)
    world.reset()
    expert = Expert(mode, steps, seed + 5)
    done = False
    while not done and world.view().step_count < steps:
        for action in expert.plan(world.view(), per_look):
            done = world.step(ACTION_ID[action])[2]
            if done or world.view().step_count >= steps:
                break
    return world.view().unlocked


def mean_unlocked(episodes: list[tuple[str, ...]]) -> float:
    return sum(len(unlocked) for unlocked in episodes) / len(episodes)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["window", "memory", "full"])
def test_ten_looks_of_five_actions(mode: str) -> None:
    assert mean_unlocked([play(EVAL_SEED + i, 50, 5, mode) for i in range(20)]) > 5.5


@pytest.mark.slow
def test_a_whole_life_with_memory() -> None:
    episodes = [play(EVAL_SEED + i, 10_000, 1, "memory") for i in range(20)]
    assert mean_unlocked(episodes) > 11.5
    assert crafter_score(episodes) > 30


@pytest.mark.long
@pytest.mark.timeout(600)
def test_published_level() -> None:
    """The figures of the documentation, within three standard errors."""
    short = [play(EVAL_SEED + i, 50, 5, "window") for i in range(200)]
    assert abs(mean_unlocked(short) - 6.6) < 0.36
    life = [play(EVAL_SEED + i, 10_000, 1, "memory") for i in range(100)]
    assert abs(mean_unlocked(life) - 14.3) < 1.1
    assert 40 < crafter_score(life) < 60


def test_same_seed_same_plan() -> None:
    assert play(7, 50, 5, "window") == play(7, 50, 5, "window")


def test_plan_has_the_asked_length_and_leaves_the_world_alone() -> None:
    world = CrafterWorld(seed=9)
    world.reset()
    before = world.semantic()
    plan = Expert("full", 50, 1).plan(world.view(), 12)
    assert len(plan) == 12
    assert set(plan) <= set(ACTION_ID)
    assert (world.semantic() == before).all()
    assert world.view().step_count == 0


def test_window_mode_knows_nothing_beyond_the_window() -> None:
    """Same window, everything else turned to water: same plan."""
    world = CrafterWorld(seed=12)
    world.reset()
    plan = Expert("window", 50, 3).plan(world.view(), 8)
    x, y = world.view().position
    for column in range(64):
        for row in range(64):
            if abs(column - x) > 4 or abs(row - y) > 3:
                world._world[column, row] = "water"
    assert Expert("window", 50, 3).plan(world.view(), 8) == plan


def test_every_rule_says_what_it_does() -> None:
    assert all(rule.__doc__ for rule in RULES)


def test_score_is_the_papers() -> None:
    assert crafter_score([]) == 0
    assert crafter_score([()]) == 0
    assert crafter_score([ACHIEVEMENTS]) == pytest.approx(100)
    half = crafter_score([{"wake_up"}, set()])
    assert half == pytest.approx(math.exp(math.log(51) / 22) - 1)
    assert success_rates([{"wake_up"}, set()])["wake_up"] == 50
