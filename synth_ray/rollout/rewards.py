"""Rewards: from the facts of a turn to a ledger of named parts. One strategy per function."""

from __future__ import annotations

from collections.abc import Callable

from synth_ray.core.config import did_you_mean
from synth_ray.core.errors import ConfigError
from synth_ray.core.types import RewardParts, RewardSpec, StepFacts


def outcome(facts: StepFacts, spec: RewardSpec) -> RewardParts:
    """One point for every achievement unlocked in the turn; over an episode it sums to the outcome reward."""
    return RewardParts({name: spec.scale for name in facts.unlocked})


def consistent(facts: StepFacts, spec: RewardSpec) -> RewardParts:
    """One point for a turn that unlocked anything, however much (stepwise, "simple")."""
    return RewardParts({"unlocked_any": spec.scale} if facts.unlocked else {})


STRATEGIES: dict[str, Callable[[StepFacts, RewardSpec], RewardParts]] = {
    "outcome": outcome,
    "consistent": consistent,
}


def reward(facts: StepFacts, spec: RewardSpec) -> RewardParts:
    """The turn's ledger under ``spec``; ConfigError for a strategy that does not exist."""
    strategy = STRATEGIES.get(spec.strategy)
    if strategy is None:
        raise ConfigError(f"unknown reward strategy {spec.strategy!r}", did_you_mean(spec.strategy, list(STRATEGIES)))
    return strategy(facts, spec)
