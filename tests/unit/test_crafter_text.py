"""The texts: golden files, purity, bounds, and a vocabulary that covers the compact one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs.crafter.expert import Expert
from envs.crafter.rules import ACHIEVEMENTS, ACTION_ID, ACTIONS, ITEM_MAX
from envs.crafter.task import CrafterTask
from envs.crafter.text import COMPACT_WORDS, RENDERERS, Moment, offset
from envs.crafter.tools import format_reply
from envs.crafter.words import REPLY_PIECES, vocabulary
from envs.crafter.world import CrafterWorld
from synth_ray.core.types import Message
from synth_ray.learn.tiny_model import build_tokenizer
from synth_ray.rollout.chat import Chat

FOLDER = Path(__file__).parent / "golden"
compact = RENDERERS["compact"]


def words_of(text: str) -> list[str]:
    """As the Whitespace pre-tokenizer of ``tokenizers`` splits."""
    return re.findall(r"\w+|[^\w\s]+", text)


KEYS = {
    "l": "move_left",
    "r": "move_right",
    "u": "move_up",
    "d": "move_down",
    "x": "do",
    "n": "noop",
    "z": "sleep",
    "t": "place_table",
    "o": "place_stone",
    "g": "place_plant",
    "p": "make_wood_pickaxe",
    "s": "make_wood_sword",
}

# Per seed, the keys of each turn.
PLAYS = {
    0: ("dddrrrxruu", "rxrdxtprxs", "urxldsurrd", "z"),
    1: ("rrrxruxdxl", "rtpuurxrds", "rruxoxrdxr", "z"),
    100001: ("dddrxxxxxx", "rxxxxxxxxx", "gllluuurrr", "z"),
}
GOLDEN: dict[str, dict[str, Any]] = {
    "compact": {},
    "seed": {"renderer": "seed"},
    "seed_original": {"renderer": "seed", "transposed_map": True, "step_counter": "env_steps"},
}


def transcript(config: Mapping[str, Any]) -> str:
    """What the user messages say, turn by turn."""
    lines = []
    for seed, turns in PLAYS.items():
        episode = CrafterTask().open(seed, {**config, "max_actions_per_turn": 10}, 10)
        lines += [f"# seed {seed}", episode.messages()[-1].content]
        for keys in turns:
            assert episode.step(format_reply([KEYS[key] for key in keys]), {}).problem is None
            lines += [f"# {keys}", episode.messages()[-1].content]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_observations(name: str) -> None:
    """Texts after scripted keys; a change here changes what every trained model reads."""
    assert transcript(GOLDEN[name]) == (FOLDER / f"crafter_{name}.txt").read_text()


def test_every_renderer_has_a_golden_file() -> None:
    assert {config.get("renderer", "compact") for config in GOLDEN.values()} == set(RENDERERS)


@pytest.mark.parametrize("name", RENDERERS)
def test_rendering_twice_gives_the_same_and_changes_nothing(name: str) -> None:
    world = CrafterWorld(seed=4)
    world.reset()
    before = world._world.random.getstate()
    assert RENDERERS[name](world.view()) == RENDERERS[name](world.view())
    assert world._world.random.getstate() == before


def test_sleep_is_told() -> None:
    world = CrafterWorld(seed=4)
    world.reset()
    world._player.inventory["energy"] = 5
    world.step(ACTION_ID["sleep"])
    assert compact(world.view()).endswith("low energy 5. asleep.")


def test_offsets() -> None:
    assert offset(3, -1) == "3R 1U"
    assert offset(-4, 2) == "4L 2D"
    assert offset(0, 1) == "1D"


def test_edge_of_the_map_is_named() -> None:
    world = CrafterWorld(area=(9, 9), seed=1)
    world.reset()
    world._world.move(world._player, 0, 0)
    world.step(ACTION_ID["move_left"])
    text = compact(world.view())
    assert text.startswith("face L edge. blocked L")
    assert set(words_of(text)) <= set(vocabulary())


@pytest.mark.slow
def test_vocabulary_covers_random_and_expert_episodes() -> None:
    known = set(vocabulary())
    for seed in range(12):
        world = CrafterWorld(seed=seed)
        world.reset()
        random = np.random.default_rng(seed)
        expert = Expert("memory", 400, seed)
        for step in range(400):
            assert set(words_of(compact(world.view()))) <= known
            wander = 1 + step // 30 % 4 if random.random() < 0.6 else int(random.integers(len(ACTIONS)))
            action = ACTION_ID[expert.plan(world.view(), 1)[0]] if seed % 2 else wander
            if world.step(action)[2]:
                world.reset()
                expert.reset()


def crowded_world(random: np.random.Generator) -> CrafterWorld:
    """Everything at once: all kinds of cells around the player, a full inventory, all achievements, asleep."""
    world = CrafterWorld(seed=int(random.integers(5)))
    world.reset()
    x, y = world._player.pos
    kinds = ["water", "stone", "tree", "coal", "iron", "diamond", "table", "furnace", "lava", "grass", "path", "sand"]
    for dx in range(-4, 5):
        for dy in range(-3, 4):
            world._world[x + dx, y + dy] = str(random.choice(kinds))
    for item, most in ITEM_MAX.items():
        world._player.inventory[item] = int(random.integers(most + 1)) if random.random() < 0.5 else most - 1
    for name in ACHIEVEMENTS:
        world._player.achievements[name] = int(random.random() < 0.9)
    world._player.sleeping = bool(random.random() < 0.9)
    return world


def test_compact_prompts_fit_into_100_tokens() -> None:
    chat = Chat(build_tokenizer(vocabulary(), REPLY_PIECES, 512))
    unknown = chat._tokenizer.unk_token_id
    random = np.random.default_rng(0)
    most = 0
    for _ in range(300):
        text = compact(crowded_world(random).view())
        ids = chat.prompt_ids([Message("user", text)])
        assert unknown not in ids
        assert len(ids) == len(words_of(text)) + 5
        most = max(most, len(words_of(text)))
    assert COMPACT_WORDS - 4 < most <= COMPACT_WORDS == 95


def map_of(text: str) -> list[list[str]]:
    lines = text.splitlines()
    start = lines.index("Local Map View (5x5):") + 1
    return [line.split(" ") for line in lines[start : start + 5]]


def test_map_of_the_seed_text_is_the_world_and_the_original_one_is_turned() -> None:
    random = np.random.default_rng(1)
    for _ in range(40):
        world = crowded_world(random)
        view = world.view()
        (x, y), lines = view.position, map_of(RENDERERS["seed"](view))
        for row, column in np.ndindex(5, 5):
            place = x - 2 + column, y - 2 + row
            assert lines[row][column] == (view.object_at(*place) or view.material_at(*place))
        turned = map_of(RENDERERS["seed"](view, Moment(transposed=True)))
        assert turned == [list(column) for column in zip(*lines, strict=True)]


def test_original_map_shows_what_is_below_on_the_right_and_no_ripeness() -> None:
    world = CrafterWorld(seed=1)
    world.reset()
    world._player.inventory["sapling"] = 1
    world.step(ACTION_ID["place_plant"])
    view = world.view()
    assert view.facing == (0, 1)
    assert map_of(RENDERERS["seed"](view))[3][2] == "plant"
    world._world.thing_at(32, 33).grown = 10_000
    assert map_of(RENDERERS["seed"](view))[3][2] == "ripe"
    assert map_of(RENDERERS["seed"](view, Moment(transposed=True)))[2][2:4] == ["player", "plant"]


def test_seed_text_at_the_corner_of_the_map_and_with_nothing() -> None:
    world = CrafterWorld(area=(9, 9), seed=1)
    world.reset()
    world._world.move(world._player, 0, 0)
    world._player.inventory.update(dict.fromkeys(ITEM_MAX, 0))
    text = RENDERERS["seed"](world.view(), Moment(7, None, ()))
    lines = map_of(text)
    assert lines[0] == lines[1] == ["void"] * 5
    assert [line[:2] for line in lines] == [["void"] * 2] * 5
    for line in ("Step: 7", "Health: 0", "Position: [0, 0]", "Inventory: empty", "Achievements: none"):
        assert line in text.splitlines()
    assert text.endswith("\n\nPrevious tool calls (most recent first):\n- none")
    assert "Previous" not in RENDERERS["seed"](world.view())


def test_long_calls_are_cut_in_the_list() -> None:
    world = CrafterWorld(seed=1)
    world.reset()
    last = RENDERERS["seed"](world.view(), Moment(calls=[["make_stone_pickaxe"] * 100])).splitlines()[-1]
    assert len(last) == len("- interact_many: ") + 500


def test_vocabulary_is_a_fixed_list_of_single_words() -> None:
    words = vocabulary()
    assert len(words) == len(set(words)) == 102
    assert all(words_of(word) == [word] for word in words)
    assert words == vocabulary()


def test_replies_are_made_of_pieces_and_actions() -> None:
    opening, separator, closing = REPLY_PIECES
    for count in (1, 2, 5):
        actions = list(ACTIONS[:count])
        assert format_reply(actions) == opening + separator.join(actions) + closing
    assert set(ACTIONS) <= set(vocabulary())
