"""Rewards: from the facts of a turn to a ledger of named parts. One strategy per function, all pure.

Invariants: a turn's reward is the sum of its ledger, and linear in the spec's scale; what a strategy knows of earlier
turns is in the tally; what it knows of the world is in the price list. Formulas and examples: docs/rewards.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from synth_ray.core.config import did_you_mean
from synth_ray.core.errors import ConfigError
from synth_ray.core.types import RewardParts, RewardSpec, StepFacts
from synth_ray.rollout.prices import Prices
from synth_ray.rollout.tally import Tally, earnings

Parts = dict[str, float]
Strategy = Callable[[StepFacts, Tally, RewardSpec, Prices], Parts]

ACHIEVEMENT, INVENTORY, COUNTER = "achievement/", "inventory/", "counter/"
UNLOCKED_ANY = "unlocked_any"
DEFAULT_POINTS = 1.0
DEFAULT_LIMIT = 1


def outcome(facts: StepFacts, tally: Tally, spec: RewardSpec, prices: Prices) -> Parts:
    """One point for an achievement unlocked for the first time; over an episode it sums to the outcome reward."""
    return {ACHIEVEMENT + name: 1.0 for name in tally.first_unlocks(facts)}


def events(facts: StepFacts, tally: Tally, spec: RewardSpec, prices: Prices) -> Parts:
    """One point for every first unlock (``event_kind`` "unique"), or for every unlock at all ("absolute")."""
    names = facts.unlocked if spec.event_kind == "absolute" else tally.first_unlocks(facts)
    return {ACHIEVEMENT + name: 1.0 for name in names}


def consistent(facts: StepFacts, tally: Tally, spec: RewardSpec, prices: Prices) -> Parts:
    """One point for a turn that unlocked anything, however much."""
    return {UNLOCKED_ANY: 1.0} if facts.unlocked else {}


def per_achievement(facts: StepFacts, tally: Tally, spec: RewardSpec, prices: Prices) -> Parts:
    """Weighted unlocks, plus everything that grew: items in the inventory and counters of achievements.

    What is eaten, drunk or healed grows too, and losses cost nothing, so that this signal can be farmed.
    """
    parts = {
        ACHIEVEMENT + name: points(name, spec)
        for name in facts.unlocked
        if payable(1, tally.earned.get(name, 0), limit(name, spec))
    }
    return (
        parts
        | _growth(INVENTORY, facts.inventory_delta, prices.items)
        | _growth(COUNTER, facts.counter_delta, prices.counters)
    )


def shaped(facts: StepFacts, tally: Tally, spec: RewardSpec, prices: Prices) -> Parts:
    """Every earning of an achievement up to its limit, plus items above the most that was held before.

    Only new peaks pay: spending costs nothing, and to spend and collect again gains nothing.
    """
    paid = {
        name: payable(times, tally.earned.get(name, 0), limit(name, spec)) for name, times in earnings(facts).items()
    }
    raised = {item: tally.above_peak(item, facts) for item in facts.inventory_delta if item in prices.items}
    return {ACHIEVEMENT + name: times * points(name, spec) for name, times in paid.items() if times} | {
        INVENTORY + item: units * prices.items[item] for item, units in raised.items() if units
    }


def env_sparse(facts: StepFacts, tally: Tally, spec: RewardSpec, prices: Prices) -> Parts:
    """The reward that the world itself gave in this turn."""
    return {"env": facts.env_reward} if facts.env_reward else {}


STRATEGIES: dict[str, Strategy] = {
    "outcome": outcome,
    "events": events,
    "consistent": consistent,
    "per_achievement": per_achievement,
    "shaped": shaped,
    "env_sparse": env_sparse,
}


def reward(facts: StepFacts, tally: Tally, spec: RewardSpec, prices: Prices) -> RewardParts:
    """The turn's ledger under ``spec``; ``tally`` counts the turns before it. ConfigError for an unknown strategy."""
    parts = strategy(spec.strategy)(facts, tally, spec, prices)
    return RewardParts({name: spec.scale * amount for name, amount in parts.items()})


def strategy(name: str) -> Strategy:
    """The strategy of that name; ConfigError if there is none."""
    if name not in STRATEGIES:
        raise ConfigError(f"unknown reward strategy {name!r}", did_you_mean(name, list(STRATEGIES)))
    return STRATEGIES[name]


def points(name: str, spec: RewardSpec) -> float:
    """What one paid earning of an achievement is worth."""
    return spec.weights.get(name, DEFAULT_POINTS)


def limit(name: str, spec: RewardSpec) -> int:
    """How often an achievement pays in an episode; 0 and below is without end."""
    return spec.limits.get(name, DEFAULT_LIMIT)


def payable(times: int, before: int, limit: int) -> int:
    """How many of ``times`` new earnings pay, after ``before`` earlier ones."""
    return times if limit <= 0 else max(0, min(times, limit - before))


def resource_amount(parts: Mapping[str, float]) -> float:
    """The share of a ledger that items and counters earned."""
    return sum(amount for name, amount in parts.items() if name.startswith((INVENTORY, COUNTER)))


def _growth(kind: str, deltas: Mapping[str, int], prices: Mapping[str, float]) -> Parts:
    return {kind + name: delta * prices[name] for name, delta in deltas.items() if delta > 0 and name in prices}
