"""What Crafter's items are worth, one list per reward strategy that asks for one."""

from __future__ import annotations

from envs.crafter.rules import ACHIEVEMENTS, ITEMS
from synth_ray.rollout.prices import Prices

_ELSE = 0.05
_TOOLS = {
    "wood_pickaxe": 0.40,
    "stone_pickaxe": 0.55,
    "iron_pickaxe": 0.75,
    "wood_sword": 0.35,
    "stone_sword": 0.50,
    "iron_sword": 0.70,
}
_MATERIALS = {"wood": 0.10, "sapling": 0.08, "stone": 0.15, "coal": 0.18, "iron": 0.22}
_NEEDS = {"drink": 0.07, "food": 0.07, "energy": 0.04}
_COUNTERS = {
    "collect_wood": 0.08,
    "collect_sapling": 0.06,
    "collect_stone": 0.10,
    "collect_coal": 0.12,
    "collect_iron": 0.14,
    "collect_drink": 0.06,
}

PER_ACHIEVEMENT = Prices(
    items=dict.fromkeys(ITEMS, _ELSE) | _TOOLS | _MATERIALS | _NEEDS,
    counters=dict.fromkeys(ACHIEVEMENTS, _ELSE) | _COUNTERS,
)
"""Prices of every item, health among them, and of every counter. Diamonds cost as little as what nobody thought of."""

SHAPED = Prices(items=_TOOLS | _MATERIALS | {"diamond": 0.30}, achievements=ACHIEVEMENTS)
"""Materials and tools; health, food, drink and energy are no property."""

PRICES = {"per_achievement": PER_ACHIEVEMENT, "shaped": SHAPED}
