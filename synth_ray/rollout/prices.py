"""Price lists: what the things of a world are worth. A world brings its own; strategies only multiply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from synth_ray.core.config import did_you_mean
from synth_ray.core.errors import ConfigError
from synth_ray.core.types import RewardSpec


@dataclass(frozen=True, slots=True)
class Prices:
    """Points per unit of an item gained, and per time that an achievement was earned; what is not listed pays nothing.

    ``achievements`` are the names that a spec's weights and limits may use; if it is empty, they may use any.
    """

    items: Mapping[str, float] = field(default_factory=dict)
    counters: Mapping[str, float] = field(default_factory=dict)
    achievements: tuple[str, ...] = ()


def price_list(spec: RewardSpec, lists: Mapping[str, Prices]) -> Prices:
    """The world's list for the strategy of ``spec``, an empty one if it has none.

    Raises ConfigError if ``spec`` weighs or limits an achievement that the list does not know.
    """
    prices = lists.get(spec.strategy, Prices())
    for name in [*spec.weights, *spec.limits] if prices.achievements else ():
        if name not in prices.achievements:
            raise ConfigError(
                f"step rewards: there is no achievement {name!r}", did_you_mean(name, prices.achievements)
            )
    return prices
