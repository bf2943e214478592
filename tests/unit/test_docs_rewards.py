"""The examples of docs/rewards.md say what the code does."""

import doctest
import re
from pathlib import Path

from envs.crafter.prices import PRICES
from synth_ray.core.sections import RLTraining
from synth_ray.core.spelling_rules import STRATEGY_ALIASES
from synth_ray.rollout.rewards import STRATEGIES
from synth_ray.rollout.step_rewards import StepRewards


def test_the_examples_run(checkout: Path) -> None:
    result = doctest.testfile(str(checkout / "docs" / "rewards.md"), module_relative=False)
    assert result.attempted >= 15
    assert result.failed == 0


def test_every_name_is_documented(checkout: Path) -> None:
    text = (checkout / "docs" / "rewards.md").read_text()
    keys = [name for name in RLTraining.model_fields if name.startswith(("step_rewards_", "event_rewards_"))]
    for name in [*STRATEGIES, *STRATEGY_ALIASES, *StepRewards.model_fields, *keys]:
        assert f"`{name}`" in text, name


def test_the_price_table_is_todays(checkout: Path) -> None:
    text = (checkout / "docs" / "rewards.md").read_text()
    for first, names in {
        "wood, sapling": ["wood", "sapling", "stone", "coal", "iron", "diamond"],
        "pickaxe of": ["wood_pickaxe", "stone_pickaxe", "iron_pickaxe"],
        "sword of": ["wood_sword", "stone_sword", "iron_sword"],
        "health, food": ["health", "food", "drink", "energy"],
    }.items():
        (row,) = re.findall(rf"^\| {first}.*$", text, re.M)
        columns = [[float(number) for number in re.findall(r"\.\d+", cell)] for cell in row.split("|")[2:4]]
        assert columns[0] == [PRICES["per_achievement"].items[name] for name in names]
        expected = [PRICES["shaped"].items[name] for name in names if name in PRICES["shaped"].items]
        assert (columns[1] or columns[0] * (row.split("|")[3].strip() == "the same")) == expected
