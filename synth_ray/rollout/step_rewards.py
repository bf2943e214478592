"""The ``step_rewards`` block of requests and configs, and the reward spec that it asks for. Pure.

A block is wrong loudly: an unknown key, type, strategy or mode is a ConfigError, never a value that is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from synth_ray.core.config import Section, validate
from synth_ray.core.errors import ConfigError
from synth_ray.core.spelling_rules import STRATEGY_ALIASES
from synth_ray.core.types import RewardSpec
from synth_ray.rollout.rewards import strategy

KEY = "step_rewards"

_ZERO_IS_ONE = ("consistent", "per_achievement")
_MODES = {"outcome": "off", "env_sparse": "env_sparse"}

Amount = Annotated[float, Field(ge=-1e6, le=1e6)]


class StepRewards(Section):
    """One block."""

    model_config = ConfigDict(strict=True)

    enabled: bool = False
    mode: Literal["off", "decision_stepwise", "env_sparse"] = "decision_stepwise"
    """What is paid turn by turn: nothing, the strategy's ledger, or the world's own reward."""
    strategy: str = "consistent"
    indicator_lambda: Amount | None = None
    """Scale of all parts. None is 1; so is 0 for `consistent` and `per_achievement`, while `shaped` then pays 0."""
    step_beta: Amount = 0.0
    """The learner's time weight."""
    weights: Mapping[str, Amount] = {}
    """Points by achievement; 1 for what is not listed."""
    k_limits: Mapping[str, int] = {}
    """How often an achievement pays in an episode: 1 if it is not listed, 0 without end."""
    event_rewards_kind: Literal["unique", "absolute"] = "unique"


def reward_spec_from_block(block: Mapping[str, Any]) -> RewardSpec:
    """The reward spec that a block asks for; an empty block, or one that is off, trains on the outcome alone.

    Raises ConfigError for an unknown key or strategy and for values of a wrong type.
    """
    wanted = validate(StepRewards, block, KEY)
    name = wanted.strategy.strip().lower()
    name = STRATEGY_ALIASES.get(name, name)
    strategy(name)
    if wanted.mode == "env_sparse":
        name = "env_sparse"
    if not wanted.enabled or wanted.mode == "off" or name == "outcome":
        return RewardSpec()
    scale = 1.0 if wanted.indicator_lambda is None else wanted.indicator_lambda
    return RewardSpec(
        strategy=name,
        scale=1.0 if scale == 0 and name in _ZERO_IS_ONE else scale,
        weights=wanted.weights,
        limits=wanted.k_limits,
        event_kind=wanted.event_rewards_kind,
        beta=wanted.step_beta,
    )


def find_step_rewards(*configs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The block of the first config that has one, else an empty one; ConfigError if it is no table."""
    block: Any = next((config[KEY] for config in configs if config.get(KEY) is not None), {})
    if not isinstance(block, Mapping):
        raise ConfigError(f"{KEY} must be a table, not {type(block).__name__}")
    return block


def without_step_rewards(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` without its block: what the world gets to see."""
    return {key: value for key, value in config.items() if key != KEY}


def mode_of(spec: RewardSpec) -> str:
    """The mode of the block that asks for ``spec``."""
    return _MODES.get(spec.strategy, "decision_stepwise")
