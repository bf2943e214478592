"""docs/crafter.md says what is so: its examples are real output, its tables are complete."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from envs.crafter.config import CrafterConfig
from envs.crafter.task import CrafterTask
from envs.crafter.tools import parse_actions

# The moment that the examples show: the world of seed 1 after these keys, a turn each.
TURNS = ("rrrxruxdxl", "rtpuurxrds", "rruxoxrdxr")
KEYS = {
    "l": "move_left",
    "r": "move_right",
    "u": "move_up",
    "d": "move_down",
    "x": "do",
    "t": "place_table",
    "o": "place_stone",
    "p": "make_wood_pickaxe",
    "s": "make_wood_sword",
}


@pytest.fixture(scope="module")
def page(checkout: Path) -> str:
    return (checkout / "docs" / "crafter.md").read_text()


@pytest.mark.parametrize(
    "config",
    [{}, {"renderer": "seed"}, {"renderer": "seed", "transposed_map": True, "step_counter": "env_steps"}],
)
def test_renderers_give_the_examples(page: str, config: dict[str, Any]) -> None:
    episode = CrafterTask().open(1, {**config, "max_actions_per_turn": 10}, 10)
    for keys in TURNS:
        assert episode.step(json.dumps({"actions": [KEYS[key] for key in keys]}), {}).problem is None
    assert f"```text\n{episode.messages()[-1].content}\n```" in page


def test_every_setting_is_in_the_table_with_its_default(page: str) -> None:
    table = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", page, re.MULTILINE))
    settings = {name: json.dumps(field.default) for name, field in CrafterConfig.model_fields.items()}
    assert {name: f"`{default}`" for name, default in settings.items() if default != "null"}.items() <= table.items()
    assert "report_problems" in table


@pytest.mark.parametrize(
    ("reply", "actions"),
    [
        ('I go. {"actions": ["move_right", "do"]}', ("move_right", "do")),
        ('{"action": "do"}', ("do",)),
        ("<action>move_right, do</action>", ("move_right", "do")),
        ("[action]do[/action]", ("do",)),
        ("Actions: move_right, do", ("move_right", "do")),
        ("move_right, do", ("move_right", "do")),
        ('["move_right", "do"]', ("move_right", "do")),
        ("right then do", ("move_right", "do")),
    ],
)
def test_replies_of_the_table_are_read(page: str, reply: str, actions: tuple[str, ...]) -> None:
    assert f"`{reply}`" in page
    parsed = parse_actions(reply, {}, 5)
    assert (parsed.actions, parsed.problem) == (actions, None)


@pytest.mark.parametrize("reply", ["Actions: right, jump", "do do do do do do", "I go right."])
def test_problems_of_the_table_are_told(page: str, reply: str) -> None:
    assert f"| `{parse_actions(reply, {}, 5).problem}` |" in page


def test_complaint_is_real(page: str) -> None:
    episode = CrafterTask().open(1, {"report_problems": True}, 10)
    episode.step("Actions: right, jump", {})
    assert f"`{episode.messages()[-1].content.splitlines()[-1]}`" in page
