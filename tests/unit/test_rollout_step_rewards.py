"""The step_rewards block: what it asks for, and how loudly it is wrong."""

import math
from typing import Any

import pytest

from synth_ray.core.errors import ConfigError
from synth_ray.core.spelling_rules import STRATEGY_ALIASES
from synth_ray.core.types import RewardSpec
from synth_ray.rollout.rewards import STRATEGIES
from synth_ray.rollout.step_rewards import find_step_rewards, reward_spec_from_block, without_step_rewards

ON = {"enabled": True, "mode": "decision_stepwise"}


@pytest.mark.parametrize(
    "block",
    [{}, {"enabled": False, "strategy": "shaped"}, {"enabled": True, "mode": "off"}, {**ON, "strategy": "outcome"}],
)
def test_what_is_off_trains_on_the_outcome(block: dict[str, Any]) -> None:
    spec = reward_spec_from_block(block)
    assert spec == RewardSpec("outcome") and not spec.stepwise


def test_every_key_arrives() -> None:
    spec = reward_spec_from_block(
        {
            **ON,
            "strategy": "complex",
            "indicator_lambda": 0.5,
            "step_beta": 0.25,
            "weights": {"collect_wood": 1},
            "k_limits": {"collect_wood": 4},
            "event_rewards_kind": "absolute",
        }
    )
    assert spec == RewardSpec("per_achievement", 0.5, {"collect_wood": 1.0}, {"collect_wood": 4}, "absolute", 0.25)
    assert spec.stepwise


@pytest.mark.parametrize(("spelling", "name"), [*STRATEGY_ALIASES.items(), *((name, name) for name in STRATEGIES)])
def test_spellings(spelling: str, name: str) -> None:
    assert reward_spec_from_block({**ON, "strategy": spelling.upper()}).strategy == name
    assert name in STRATEGIES


@pytest.mark.parametrize(
    ("strategy", "given", "scale"),
    [
        ("simple", 0.0, 1.0),
        ("per_achievement", 0, 1.0),
        ("shaped", 0.0, 0.0),
        ("events", 0.0, 0.0),
        ("consistent", -1.0, -1.0),
        ("shaped", None, 1.0),
        ("consistent", 0.5, 0.5),
    ],
)
def test_lambda(strategy: str, given: float | None, scale: float) -> None:
    assert reward_spec_from_block({**ON, "strategy": strategy, "indicator_lambda": given}).scale == scale


def test_env_sparse_is_a_mode_and_needs_no_strategy() -> None:
    assert reward_spec_from_block({"enabled": True, "mode": "env_sparse"}) == RewardSpec("env_sparse")


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ({"strategy": "shapd"}, "shapd"),
        ({"strategy": 3}, "step_rewards.strategy"),
        ({"mode": "stepwise"}, "step_rewards.mode"),
        ({"enabled": "yes"}, "step_rewards.enabled"),
        ({"indicator_lambda": "much"}, "step_rewards.indicator_lambda"),
        ({"indicator_lambda": math.nan}, "step_rewards.indicator_lambda"),
        ({"step_beta": math.inf}, "step_rewards.step_beta"),
        ({"weights": {"collect_wood": "a lot"}}, "step_rewards.weights.collect_wood"),
        ({"weights": ["collect_wood"]}, "step_rewards.weights"),
        ({"k_limits": {"collect_wood": 1.5}}, "step_rewards.k_limits.collect_wood"),
        ({"event_rewards_kind": "all"}, "step_rewards.event_rewards_kind"),
        ({"klimits": {}}, "step_rewards.klimits"),
    ],
)
def test_wrong_values_are_named_even_when_off(wrong: dict[str, Any], names: str) -> None:
    for block in (wrong, {**ON, **wrong}):
        with pytest.raises(ConfigError) as caught:
            reward_spec_from_block(block)
        assert names in caught.value.message


def test_the_policys_block_comes_first_and_the_world_sees_none() -> None:
    policy, env = {"step_rewards": {"enabled": True}}, {"step_rewards": {"enabled": False}, "renderer": "compact"}
    assert find_step_rewards(policy, env) == {"enabled": True}
    assert find_step_rewards({}, env) == {"enabled": False}
    assert find_step_rewards({"step_rewards": None}, {}) == {}
    assert without_step_rewards(env) == {"renderer": "compact"}
    with pytest.raises(ConfigError, match="must be a table"):
        find_step_rewards({"step_rewards": "simple"})
