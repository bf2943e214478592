"""The compact text: golden strings, purity, and a vocabulary that covers all of it."""

from __future__ import annotations

import re

import numpy as np
import pytest

from envs.crafter.expert import Expert
from envs.crafter.rules import ACTION_ID, ACTIONS
from envs.crafter.text import RENDERERS, offset
from envs.crafter.tools import format_reply
from envs.crafter.words import REPLY_PIECES, vocabulary
from envs.crafter.world import CrafterWorld

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

GOLDEN = {
    0: (
        (
            "",
            "face D grass. near cow 4R, tree 4L 3U.",
        ),
        (
            "dddrrrxruu",
            "face U grass. near tree 2R, cow 2R 1U. have wood 1. done collect_wood.",
        ),
        (
            "rxrdxtprxs",
            "face R cow. blocked R D. near cow 1R, table 1D, tree 2R. have wood_pickaxe 1. done collect_wood "
            "make_wood_pickaxe place_table.",
        ),
        (
            "urxldsurrd",
            "face D tree. blocked L D. near cow 1L, tree 1D, table 2L 2D. low food 8 drink 8. have "
            "wood_pickaxe 1 wood_sword 1. done collect_wood make_wood_pickaxe make_wood_sword place_table.",
        ),
        (
            "z",
            "face D tree. blocked D. near tree 1D, cow 2L, table 2L 2D. low food 8 drink 8 energy 8. have "
            "wood_pickaxe 1 wood_sword 1. done collect_wood make_wood_pickaxe make_wood_sword place_table.",
        ),
    ),
    1: (
        (
            "",
            "face D grass. near cow 1R 3U, tree 4R.",
        ),
        (
            "rrrxruxdxl",
            "face L grass. near tree 2R 2U, stone 4R 2U. have wood 3. done collect_wood.",
        ),
        (
            "rtpuurxrds",
            "face D table. blocked D. near table 1D, stone 2R 1U, tree 3R 1D. have wood_pickaxe 1 wood_sword "
            "1. done collect_wood make_wood_pickaxe make_wood_sword place_table.",
        ),
        (
            "rruxoxrdxr",
            "face R stone. blocked R. near stone 1R, table 3L 1D, tree 1R 3D. low food 8 drink 8. have wood 1"
            " stone 1 wood_pickaxe 1 wood_sword 1. done collect_stone collect_wood make_wood_pickaxe "
            "make_wood_sword place_stone place_table.",
        ),
        (
            "z",
            "face R stone. blocked R. near stone 1R, table 3L 1D, tree 1R 3D. low food 8 drink 8 energy 8. "
            "have wood 1 stone 1 wood_pickaxe 1 wood_sword 1. done collect_stone collect_wood "
            "make_wood_pickaxe make_wood_sword place_stone place_table.",
        ),
    ),
    100001: (
        (
            "",
            "face D grass. near cow 2R 3D.",
        ),
        (
            "dddrxxxxxx",
            "face R grass. near cow 2R.",
        ),
        (
            "rxxxxxxxxx",
            "face R grass. blocked D. near cow 1D. have sapling 1. done collect_sapling eat_cow.",
        ),
        (
            "gllluuurrr",
            "face R grass. low drink 8. done collect_sapling eat_cow place_plant.",
        ),
        (
            "z",
            "face R grass. low drink 8 energy 8. done collect_sapling eat_cow place_plant.",
        ),
    ),
}


@pytest.mark.parametrize("seed", sorted(GOLDEN))
def test_golden_observations(seed: int) -> None:
    """Texts after scripted keys; a change here changes what every trained model reads."""
    world = CrafterWorld(seed=seed, length=None)
    world.reset()
    for keys, text in GOLDEN[seed]:
        for key in keys:
            world.step(ACTION_ID[KEYS[key]])
        assert compact(world.view()) == text


def test_rendering_twice_gives_the_same_and_changes_nothing() -> None:
    world = CrafterWorld(seed=4)
    world.reset()
    before = world._world.random.getstate()
    assert compact(world.view()) == compact(world.view())
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
