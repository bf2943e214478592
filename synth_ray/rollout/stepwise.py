"""A rollout's ledgers as the HTTP contract shows them: per turn, per decision sample, and for the episode. Pure.

``base`` amounts are those before the spec's scale; with a scale of 0 they are 0 too, because nothing was paid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from synth_ray.core.types import RewardSpec, Rollout, StepFacts, Turn
from synth_ray.rollout.rewards import ACHIEVEMENT, COUNTER, INVENTORY, UNLOCKED_ANY, limit, points, resource_amount
from synth_ray.rollout.step_rewards import mode_of
from synth_ray.rollout.tally import Tally, tallies

_DIGITS = 9


def turn_stepwise(turn: Turn, tally: Tally, spec: RewardSpec) -> dict[str, Any]:
    """``info.stepwise`` of a turn; ``tally`` counts the turns before it."""
    facts, base = turn.facts, _base(turn.reward.total, spec)
    components = _components(turn, tally, spec)
    return {
        "decision_index": turn.index,
        "indicator": int(base > 0 or bool(facts.unlocked)),
        "new_achievements": list(facts.unlocked),
        "reward": turn.reward.total,
        "strategy": spec.strategy,
        "base_reward": base,
        "components": components,
        "credited_achievements": [
            _rest(name, ACHIEVEMENT) for name in turn.reward.parts if name.startswith(ACHIEVEMENT)
        ],
        "resource_reward": _base(resource_amount(turn.reward.parts), spec),
        "inventory_deltas": _grown(facts.inventory_delta),
        "achievement_count_deltas": _grown(facts.counter_delta),
    }


def rollout_stepwise(rollout: Rollout, spec: RewardSpec) -> list[dict[str, Any]]:
    """``info.stepwise`` of every turn."""
    seen = tallies(rollout.turns)
    return [turn_stepwise(turn, tally, spec) for turn, tally in zip(rollout.turns, seen, strict=True)]


def decision_samples(rollout: Rollout, spec: RewardSpec) -> list[dict[str, Any]]:
    """``decision_samples`` of a trajectory: what each decision did and earned."""
    return [
        {
            "decision_index": step["decision_index"],
            "indicator": step["indicator"],
            "r_i": step["reward"],
            "base": step["base_reward"],
            "strategy": step["strategy"],
            "actions": [{"tool": "interact_many", "args": {"actions": list(turn.facts.actions)}}],
            "components": step["components"],
            "resource_reward": step["resource_reward"],
        }
        for turn, step in zip(rollout.turns, rollout_stepwise(rollout, spec), strict=True)
    ]


def decision_rewards(rollout: Rollout) -> list[dict[str, Any]]:
    """``info.meta.decision_rewards`` of every turn, from turn 1 on: what it unlocked, and what of that is new."""
    return [
        {
            "turn": number,
            "ach_delta": len(turn.facts.unlocked),
            "unique_delta": len(tally.first_unlocks(turn.facts)),
            "all": list(turn.facts.unlocked),
            "unique": list(tally.first_unlocks(turn.facts)),
        }
        for number, (turn, tally) in enumerate(zip(rollout.turns, tallies(rollout.turns), strict=True), start=1)
    ]


def stepwise_details(rollout: Rollout, spec: RewardSpec) -> dict[str, Any]:
    """``metrics.details.stepwise``: sums over the episode, and the settings behind them."""
    steps = rollout_stepwise(rollout, spec)
    unlocked = [name for step in steps for name in step["new_achievements"]]
    unique = list(dict.fromkeys(unlocked))
    settings = {"weights": dict(spec.weights), "k_limits": dict(spec.limits)}
    return {
        "indicator_sum": sum(step["indicator"] for step in steps),
        "reward_sum": math.fsum(step["reward"] for step in steps),
        "resource_reward": math.fsum(step["resource_reward"] for step in steps),
        "new_achievements_total": len(unlocked),
        "mode": mode_of(spec),
        "strategy": spec.strategy,
        "indicator_lambda": spec.scale,
        "step_beta": spec.beta,
        **{key: value for key, value in settings.items() if value},
        "unique_achievements_total": len(unique),
        "unique_achievements": unique,
        "final_achievements": list(rollout.achievements),
    }


def _components(turn: Turn, tally: Tally, spec: RewardSpec) -> list[dict[str, Any]]:
    return [
        _component(name, _base(amount, spec), turn.facts, tally, spec) for name, amount in turn.reward.parts.items()
    ]


def _component(name: str, amount: float, facts: StepFacts, tally: Tally, spec: RewardSpec) -> dict[str, Any]:
    if name == UNLOCKED_ANY:
        return {"achievement": "__indicator__", "weight": amount, "count_prior": 0, "count_limit": 0, "reward": amount}
    if name.startswith(ACHIEVEMENT):
        achievement = _rest(name, ACHIEVEMENT)
        return {
            "achievement": achievement,
            "weight": points(achievement, spec),
            "count_prior": tally.earned.get(achievement, 0),
            "count_limit": limit(achievement, spec),
            "reward": amount,
        }
    if name.startswith(INVENTORY):
        item = _rest(name, INVENTORY)
        gained = facts.inventory_delta.get(item, 0)
        paid = tally.above_peak(item, facts) if spec.strategy == "shaped" else gained
        return {"type": "inventory", "item": item, **_priced(paid, amount)}
    if name.startswith(COUNTER):
        counter = _rest(name, COUNTER)
        return {"type": "achievement_count", "name": counter, **_priced(facts.counter_delta.get(counter, 0), amount)}
    return {"type": name, "reward": amount}


def _priced(delta: int, amount: float) -> dict[str, Any]:
    """``weight`` is what one of ``delta`` units paid; a strategy may also pay for what did not change."""
    return {"delta": delta, **({"weight": round(amount / delta, _DIGITS)} if delta else {}), "reward": amount}


def _base(amount: float, spec: RewardSpec) -> float:
    """The amount before scaling, without the last digits that scaling has cost."""
    return round(amount / spec.scale, _DIGITS) if spec.scale else 0.0


def _rest(name: str, kind: str) -> str:
    return name.removeprefix(kind)


def _grown(deltas: Mapping[str, int]) -> dict[str, int]:
    return {name: delta for name, delta in deltas.items() if delta > 0}
