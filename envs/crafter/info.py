"""What the task says of itself: actions, observations, tools, limits, the worlds that seeds give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from envs.crafter.config import CrafterConfig
from envs.crafter.rules import ACHIEVEMENTS, ACTIONS, ITEMS, MATERIALS, TREE
from envs.crafter.text import RENDERERS
from envs.crafter.tools import single_tool_schema, tool_schema
from envs.crafter.view import WorldView
from envs.crafter.world import CrafterWorld

TASK_NAME = "grpo-crafter"
VERSION = "1.0.0"
MAX_SEED = 2**31 - 1

_TRAIT_RADIUS = 10
_HOSTILES = frozenset({"zombie", "skeleton"})
# At least so many trees and at most so many hostile creatures near the start; the first that fits counts.
_TIERS = (("easy", 4, 0), ("medium", 2, 2), ("hard", 0, 5))


def task_info(seeds: Sequence[int] = ()) -> dict[str, Any]:
    """What the task is, and for each of ``seeds`` what lies around the start."""
    defaults = CrafterConfig()
    return {
        "task": {
            "id": TASK_NAME,
            "name": "Crafter",
            "description": "Survive in a 2D world and unlock as many of 22 achievements as possible.",
            "version": VERSION,
        },
        "environment": "crafter",
        "action_space": {"type": "discrete", "size": len(ACTIONS), "actions": list(ACTIONS)},
        "achievements": list(ACHIEVEMENTS),
        "items": list(ITEMS),
        "observation": {
            "type": "text",
            "summary": "A text; with use_vision also a picture of the 9 x 7 cells around the player and the inventory.",
            "keys": ["text", "image"],
            "renderers": list(RENDERERS),
            "image_shape": [defaults.image_size, defaults.image_size, 3],
        },
        "tools": [tool_schema(defaults.max_actions_per_turn), single_tool_schema()],
        "limits": {"max_actions_per_turn": defaults.max_actions_per_turn, "max_env_steps": defaults.length},
        "dataset": {
            "id": "crafter_classic_procedural",
            "name": "Crafter worlds, one per seed",
            "version": VERSION,
            "splits": ["train", "heldout"],
            "default_split": "train",
            "seed_range": [0, MAX_SEED],
            "default_seed": 0,
            "config": {"area": [64, 64], "length": defaults.length},
        },
        "seeds": [start(seed) for seed in seeds],
    }


def start(seed: int) -> dict[str, Any]:
    """The beginning of a seed's world: traits, tier of difficulty, inventory and position.

    Traits count trees, cows and hostile creatures within Manhattan distance 10. The tier is a word for them; it
    changes nothing in the world.
    """
    world = CrafterWorld(seed=seed)
    world.reset()
    view = world.view()
    nearby = [kind for kind, pos in view.objects() if _distance(pos, view.position) <= _TRAIT_RADIUS]
    traits = {
        "trees": _count_near(view, MATERIALS[TREE]),
        "cows": nearby.count("cow"),
        "hostiles": sum(kind in _HOSTILES for kind in nearby),
    }
    return {
        "seed": seed,
        "traits": traits,
        "difficulty": difficulty(traits["trees"], traits["hostiles"]),
        "inventory": dict(view.inventory),
        "player_position": list(view.position),
    }


def difficulty(trees: int, hostiles: int) -> str:
    """The tier of a start: easy, medium, hard, or custom where none fits."""
    return next((tier for tier, least, most in _TIERS if trees >= least and hostiles <= most), "custom")


def _count_near(view: WorldView, material: str | None) -> int:
    x, y = view.position
    reach = range(-_TRAIT_RADIUS, _TRAIT_RADIUS + 1)
    return sum(
        view.material_at(x + dx, y + dy) == material
        for dx in reach
        for dy in reach
        if abs(dx) + abs(dy) <= _TRAIT_RADIUS
    )


def _distance(one: tuple[int, int], other: tuple[int, int]) -> int:
    return abs(one[0] - other[0]) + abs(one[1] - other[1])
