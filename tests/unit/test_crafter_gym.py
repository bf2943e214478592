"""The Gymnasium class: the checker of Gymnasium, upstream's rewards and pictures, the right kind of end."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from typing import Any

import crafter
import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs.crafter.gym_env import CrafterGym
from envs.crafter.rules import ACTION_ID

NAME = "CrafterOfThisTest-v0"


@pytest.fixture
def registered() -> Iterator[str]:
    gymnasium.register(NAME, entry_point=CrafterGym)
    yield NAME
    del gymnasium.registry[NAME]


def test_the_checker_is_content(registered: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(registered, render_mode="rgb_array", disable_env_checker=True)
        check_env(env.unwrapped)


def test_reset_and_steps_are_upstreams() -> None:
    upstream, env = crafter.Env(seed=11), CrafterGym()
    picture, info = env.reset(seed=11)
    assert np.array_equal(picture, upstream.reset())
    assert info["inventory"]["health"] == 9
    for step in range(60):
        theirs, reward, done, their_info = upstream.step(step % 6)
        picture, our_reward, terminated, truncated, info = env.step(step % 6)
        assert np.array_equal(picture, theirs)
        assert (our_reward, terminated, truncated) == (reward, done, False)
        assert info["achievements"] == their_info["achievements"]


def test_a_seed_repeats_its_world_and_resets_go_on_from_it() -> None:
    one, other = CrafterGym(), CrafterGym()
    first = one.reset(seed=4)[0]
    second = one.reset()[0]
    assert not np.array_equal(first, second)
    assert np.array_equal(other.reset(seed=4)[0], first)
    assert np.array_equal(other.reset()[0], second)
    assert np.array_equal(one.reset(seed=4)[0], first)


def test_the_end_of_the_world_truncates() -> None:
    env = CrafterGym(length=3)
    env.reset(seed=0)
    ends = [env.step(0)[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]


@pytest.mark.parametrize("length", [None, 1])
def test_death_terminates_even_in_the_last_step(length: int | None) -> None:
    env = CrafterGym(length=length)
    env.reset(seed=0)
    assert env._world is not None
    env._world._player.inventory["health"] = 0
    assert env.step(ACTION_ID["noop"])[2:4] == (True, False)


def test_rendering() -> None:
    env = CrafterGym(size=90, render_mode="rgb_array")
    picture, _ = env.reset(seed=2)
    assert picture.shape == (90, 90, 3)
    assert np.array_equal(env.render(), picture)
    silent = CrafterGym()
    silent.reset(seed=2)
    assert silent.render() is None
    with pytest.raises(ValueError, match="render_mode"):
        CrafterGym(render_mode="human")
    with pytest.raises(gymnasium.error.ResetNeeded):
        CrafterGym().step(0)


def test_the_task_does_without_gymnasium(monkeypatch: pytest.MonkeyPatch) -> None:
    blocked: dict[str, Any] = {name: None for name in sys.modules if name.split(".")[0] == "gymnasium"}
    for name in [*blocked, *(name for name in sys.modules if name.startswith("envs."))]:
        monkeypatch.delitem(sys.modules, name)
    for name in blocked:
        monkeypatch.setitem(sys.modules, name, None)
    from envs.registry import get_task

    assert get_task("crafter").info([0])["seeds"]
