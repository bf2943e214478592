"""CrafterWorld against upstream, step by step: state, rewards, random stream, pictures."""

from __future__ import annotations

import collections
import hashlib
import io
import itertools
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import crafter
import numpy as np
import pytest
from crafter import engine
from opensimplex.internals import _init as opensimplex_tables
from PIL import Image

from envs.crafter import kernels
from envs.crafter.picture import png
from envs.crafter.rules import ACTION_ID, ACTIONS, Position
from envs.crafter.world import CrafterWorld

ROOT = Path(__file__).resolve().parents[2]
POLICIES = ("random", "walk", "craft")
LIFE = ("sleeping", "hunger", "thirst", "fatigue", "recover", "last_health")


class OrderedSet(dict[Any, None]):
    """What upstream should keep the members of a chunk in: its ``set`` is ordered by memory address."""

    def add(self, item: Any) -> None:
        self[item] = None

    def remove(self, item: Any) -> None:
        del self[item]


@pytest.fixture(autouse=True)
def ordered_upstream(monkeypatch: pytest.MonkeyPatch) -> None:
    reset = engine.World.reset

    def ordered_reset(world: Any, seed: int | None = None) -> None:
        reset(world, seed)
        world._chunks = collections.defaultdict(OrderedSet)

    monkeypatch.setattr(engine.World, "reset", ordered_reset)


def choose(policy: str, step: int, random: np.random.RandomState) -> int:
    """Random actions; long walks that meet caves, water and lava; many tries to place and make."""
    if policy == "random":
        return int(random.randint(len(ACTIONS)))
    if policy == "walk":
        return int(random.choice([1, 2, 3, 4, 5, 5, 5, 6])) if random.rand() < 0.5 else 1 + step // 40 % 4
    return int(random.choice([1, 2, 3, 4, 5, 5, 5, *range(7, 17)]))


def enrich(upstream: Any, ours: CrafterWorld) -> None:
    """Gives both players materials, so that placing and making happen at all."""
    for player in (upstream._player, ours._player):
        for item in ("wood", "stone", "sapling", "coal", "iron"):
            player.inventory[item] = 9


def describe(thing: Any) -> Any:
    return thing and (type(thing).__name__, tuple(map(int, thing.pos)), thing.inventory)


def by_kind(things: Iterable[Any]) -> dict[str, list[Position]]:
    """Positions in the order of the members: balance picks by order."""
    positions: dict[str, list[Position]] = collections.defaultdict(list)
    for thing in things:
        positions[type(thing).__name__].append(tuple(map(int, thing.pos)))
    return positions


def assert_same(upstream: Any, ours: CrafterWorld) -> None:
    theirs, world = upstream._world, ours._world
    assert np.array_equal(theirs._mat_map, world.material_map)
    assert np.array_equal(theirs._obj_map.ravel(), np.frombuffer(world.thing_ids, np.uint32))
    assert theirs.daylight == world.daylight
    words, position = world.random.numpy_state()
    _, their_words, their_position, _, _ = theirs.random.get_state()
    assert position == their_position
    assert np.array_equal(words, their_words)
    things = [world.things.get(index) for index in range(1, world.next_id)]
    assert [describe(thing) for thing in theirs._objects[1:]] == [describe(thing) for thing in things]
    assert [tuple(key) for key in theirs._chunks] == [world.chunk_area(chunk) for chunk in world.chunks]
    for members, groups in zip(theirs._chunks.values(), world.chunks.values(), strict=True):
        assert by_kind(members) == by_kind(thing for group in groups for thing in group)
    assert_same_player(upstream._player, ours._player)


def assert_same_player(theirs: Any, player: Any) -> None:
    assert tuple(theirs.facing) == player.facing
    assert theirs.inventory == player.inventory
    assert theirs.achievements == player.achievements
    for name in LIFE:
        their_name = name if name == "sleeping" else f"_{name}"
        assert getattr(theirs, their_name) == getattr(player, name), name


def assert_books_balance(ours: CrafterWorld) -> None:
    """The counts that balance reads equal a fresh count."""
    world = ours._world
    for kind, counts in world.space.items():
        for chunk, count in enumerate(counts):
            xmin, xmax, ymin, ymax = world.chunk_area(chunk)
            assert count == (world.material_map[xmin:xmax, ymin:ymax] == kind).sum()


def play_both(seed: int, policy: str, steps: int, **arguments: Any) -> int:
    """Plays both worlds with the same actions and compares; returns the number of deaths."""
    upstream = crafter.Env(seed=seed, **arguments)
    ours = CrafterWorld(seed=seed, semantic=True, **arguments)
    random = np.random.RandomState(seed + 999)
    deaths = 0
    upstream.reset()
    ours.reset()
    assert_same(upstream, ours)
    for step in range(1, steps + 1):
        if policy == "craft" and step % 60 == 1:
            enrich(upstream, ours)
        action = choose(policy, step, random)
        _, reward, done, info = upstream.step(action)
        observation, our_reward, our_done, our_info = ours.step(action)
        assert observation is None
        assert (reward, done) == (our_reward, our_done)
        assert list(info) == [key for key in info if key in our_info]
        for key, value in info.items():
            assert np.array_equal(value, our_info[key]), key
        assert_same(upstream, ours)
        if done:
            deaths += 1
            assert_books_balance(ours)
            upstream.reset()
            ours.reset()
            assert_same(upstream, ours)
    assert_books_balance(ours)
    return deaths


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
def test_equals_upstream_after_every_step(policy: str) -> None:
    deaths = sum(play_both(seed, policy, 250) for seed in range(4))
    assert deaths > 0


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("first_seed", range(1000, 1050, 10))
@pytest.mark.parametrize("policy", POLICIES)
def test_equals_upstream_for_1_000_steps_of_50_seeds(policy: str, first_seed: int) -> None:
    """In blocks of ten seeds; every block meets deaths and resets."""
    deaths = sum(play_both(seed, policy, 1000) for seed in range(first_seed, first_seed + 10))
    assert deaths > 20


@pytest.mark.slow
def test_equals_upstream_with_other_arguments() -> None:
    play_both(3, "walk", 60, area=(40, 50), view=(9, 7), size=(90, 80), length=25)
    play_both(4, "walk", 40, reward=False)


def lay_ground(upstream: Any, ours: CrafterWorld) -> None:
    """Sand with as many cells of grass and path in each chunk as the thresholds of balance, give or take one."""
    for chunk in range(36):
        xmin, xmax, ymin, ymax = ours._world.chunk_area(chunk)
        cells = [(x, y) for x in range(xmin, xmax) for y in range(ymin, ymax)]
        grass, path = (29, 30, 31, 49, 50, 51)[chunk % 6], (5, 6, 7)[chunk // 6 % 3]
        names = ["grass"] * grass + ["path"] * path
        for cell, name in itertools.zip_longest(cells, names[: len(cells)], fillvalue="sand"):
            upstream._world[cell] = name
            ours._world[cell] = name


@pytest.mark.slow
def test_creatures_are_balanced_at_the_same_thresholds() -> None:
    upstream, ours = crafter.Env(seed=6), CrafterWorld(seed=6)
    upstream.reset()
    ours.reset()
    lay_ground(upstream, ours)
    for _ in range(400):
        upstream._player.inventory["health"] = ours._player.inventory["health"] = 9
        upstream.step(0)
        ours.step(0)
        assert_same(upstream, ours)
    assert_books_balance(ours)


@pytest.mark.slow
def test_pictures_equal_upstream_by_day_and_night() -> None:
    upstream, ours = crafter.Env(seed=7, size=(72, 72)), CrafterWorld(seed=7, size=(72, 72), images=True)
    assert np.array_equal(upstream.reset(), ours.reset())
    for step in range(250):
        action = ACTION_ID["sleep"] if step % 50 > 30 else step % 6
        theirs, _, done, _ = upstream.step(action)
        picture = ours.step(action)[0]
        assert np.array_equal(theirs, picture)
        if done:
            assert np.array_equal(upstream.reset(), ours.reset())
    assert_same(upstream, ours)


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 252, 300])
def test_pictures_on_request_equal_upstream_by_day_and_night(size: int) -> None:
    upstream, ours = crafter.Env(seed=7), CrafterWorld(seed=7)
    upstream.reset()
    ours.reset()
    lights = []
    for step in range(240):
        upstream._player.inventory["health"] = ours._player.inventory["health"] = 9
        upstream.step(step % 6)
        ours.step(step % 6)
        if step % 30 == 29:
            state = upstream._world.random.get_state()
            theirs = upstream.render((size, size))
            upstream._world.random.set_state(state)
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(ours, size)))), theirs)
            lights.append(ours.view().daylight)
    assert min(lights) < 0.3 < 0.9 < max(lights)
    assert_same(upstream, ours)


def digest_of_play(seed: int, steps: int, look: bool = False) -> str:
    world = CrafterWorld(seed=seed)
    world.reset()
    random = np.random.RandomState(seed)
    digest = hashlib.sha256()
    for step in range(steps):
        _, reward, done, info = world.step(choose("walk", step, random))
        digest.update(repr((reward, done, sorted(info.items()))).encode() + world.semantic().tobytes())
        if look:
            world.render()
            assert world.view().step_count >= 0
        if done:
            world.reset()
    digest.update(repr(world._world.random.getstate()).encode())
    return digest.hexdigest()


def test_looking_changes_nothing() -> None:
    assert digest_of_play(5, 260, look=True) == digest_of_play(5, 260)


def digest_in_a_fresh_process(hash_seed: str, call: str) -> str:
    code = (
        "import sys, importlib.util as u; s = u.spec_from_file_location('t', sys.argv[1]);"
        f"m = u.module_from_spec(s); s.loader.exec_module(m); print(m.{call})"
    )
    return subprocess.run(
        [sys.executable, "-c", code, __file__],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    ).stdout.strip()


@pytest.mark.slow
def test_fresh_processes_agree_whatever_the_hash_seed() -> None:
    digests = {digest_in_a_fresh_process(hash_seed, "digest_of_play(11, 400)") for hash_seed in ("0", "4242")}
    assert digests == {digest_of_play(11, 400)}


def digest_of_many_plays() -> str:
    """50 seeds with 1,000 steps each."""
    return hashlib.sha256("".join(digest_of_play(seed, 1000) for seed in range(50)).encode()).hexdigest()


@pytest.mark.long
@pytest.mark.timeout(900)
def test_fresh_processes_agree_on_50_000_steps() -> None:
    digests = {digest_in_a_fresh_process(hash_seed, "digest_of_many_plays()") for hash_seed in ("0", "4242")}
    assert digests == {digest_of_many_plays()}


def test_one_seed_gives_the_same_first_world_and_then_others() -> None:
    one, other = CrafterWorld(seed=21), CrafterWorld(seed=21)
    one.reset()
    other.reset()
    assert one._world.material == other._world.material
    one.step(ACTION_ID["do"])
    first = bytes(other._world.material)
    other.reset()
    assert bytes(other._world.material) != first


def test_a_remembered_world_is_not_spoiled_by_play() -> None:
    fresh = CrafterWorld(seed=33)
    fresh.reset()
    before = fresh.semantic()
    for step in range(200):
        fresh.step(1 + step % 5)
    again = CrafterWorld(seed=33)
    again.reset()
    assert np.array_equal(again.semantic(), before)
    assert_books_balance(again)


def test_view_tells_and_cannot_change() -> None:
    world = CrafterWorld(seed=2)
    world.reset()
    view = world.view()
    assert view.area == (64, 64)
    assert view.position == (32, 32)
    assert view.facing == (0, 1)
    assert view.material_at(32, 32) == "grass"
    assert view.object_at(32, 32) == "player"
    assert view.material_at(-1, 0) is None
    assert view.object_at(64, 0) is None
    assert view.inventory["health"] == 9
    assert view.unlocked == ()
    assert not view.sleeping
    with pytest.raises(TypeError):
        view.inventory["wood"] = 9  # type: ignore[index]
    with pytest.raises(TypeError):
        view.materials[0] = 1
    with pytest.raises(AttributeError):
        view.position = (0, 0)  # type: ignore[misc]
    world.step(ACTION_ID["noop"])
    assert view.step_count == 1
    world.reset()
    assert view.step_count == 0


def test_looks_like_upstream_from_outside() -> None:
    upstream, ours = crafter.Env(seed=1), CrafterWorld(seed=1)
    assert isinstance(ours, crafter.Env)
    assert ours.action_space == upstream.action_space
    assert ours.observation_space == upstream.observation_space
    assert list(ours.action_names) == list(upstream.action_names)
    ours.reset()
    assert ours.render().shape == (64, 64, 3)
    assert ours.render((128, 128)).shape == (128, 128, 3)
    assert "semantic" not in ours.step(0)[3]


def test_noise_tables_equal_those_of_opensimplex() -> None:
    seeds = [0, 1, 2**31 - 2, *np.random.RandomState(0).randint(0, 2**31 - 1, 200).tolist()]
    for seed in seeds:
        for ours, theirs in zip(kernels.simplex_tables(seed), opensimplex_tables(seed), strict=True):
            assert ours.dtype == theirs.dtype and (ours == theirs).all(), seed
