"""What the ledgers of a training step say in sum. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from synth_ray.core.types import RewardSpec, Rollout
from synth_ray.rollout.rewards import resource_amount


def reward_metrics(rollouts: Sequence[Rollout], spec: RewardSpec) -> dict[str, float]:
    """Means per rollout of every ledger part (``reward/<part>/mean``) and of the total (``reward/ledger/mean``).

    ``resource_reward`` is the mean share of items and counters before the spec's scale (0 if that is 0);
    ``unique_achievements_total`` counts the different achievements that the step's rollouts unlocked together.
    """
    amounts: defaultdict[str, list[float]] = defaultdict(list)
    for turn in (turn for rollout in rollouts for turn in rollout.turns):
        for name, amount in turn.reward.parts.items():
            amounts[name].append(amount)
    means = {name: math.fsum(amounts[name]) / len(rollouts) for name in sorted(amounts)}
    return {
        **{f"reward/{name}/mean": mean for name, mean in means.items()},
        "reward/ledger/mean": math.fsum(means.values()),
        "resource_reward": resource_amount(means) / spec.scale if spec.scale else 0.0,
        "unique_achievements_total": float(len({name for rollout in rollouts for name in rollout.achievements})),
    }
