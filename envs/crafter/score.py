"""The Crafter score."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from envs.crafter.rules import ACHIEVEMENTS


def success_rates(episodes: Sequence[Collection[str]]) -> dict[str, float]:
    """Per achievement, the percentage of episodes that unlocked it."""
    if not episodes:
        return dict.fromkeys(ACHIEVEMENTS, 0.0)
    return {name: 100 * sum(name in unlocked for unlocked in episodes) / len(episodes) for name in ACHIEVEMENTS}


def crafter_score(episodes: Sequence[Collection[str]]) -> float:
    """Geometric mean of the 22 success rates in percent, as the Crafter paper has it: exp(mean(ln(1 + s))) - 1."""
    rates = success_rates(episodes).values()
    return math.exp(sum(math.log1p(rate) for rate in rates) / len(ACHIEVEMENTS)) - 1
