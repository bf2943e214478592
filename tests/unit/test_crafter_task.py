"""The task: episodes, facts, teachers, settings, registry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import crafter
import numpy as np
import pytest

from envs.crafter.config import CrafterConfig, checked
from envs.crafter.rules import ACHIEVEMENTS, ACTIONS, ITEM_INITIAL
from envs.crafter.task import CrafterEpisode, CrafterTask
from envs.crafter.tools import format_reply, parse_actions
from envs.registry import TASKS, get_task
from synth_ray.core.errors import ConfigError, NotFoundError
from synth_ray.core.types import StepFacts
from synth_ray.rollout.task import Episode, Task, Teacher

WEAK = {
    "noop_rate": 0.5,
    "random_rate": 0.2,
    "list_lengths": {"1": 0.5, "2": 0.3, "3": 0.1, "4": 0.05, "5": 0.05},
}


def play(config: Mapping[str, Any], seed: int, turns: int = 10) -> tuple[CrafterEpisode, list[StepFacts], list[str]]:
    task = CrafterTask()
    episode = task.open(seed, {}, turns)
    teacher = task.teacher("expert", config, seed, turns)
    facts, kinds = [], []
    for _ in range(turns):
        facts.append(episode.step(teacher.reply(episode), {}))
        kinds.append(teacher.last_kind)
        if facts[-1].done:
            break
    return episode, facts, kinds


def test_keeps_the_protocols() -> None:
    task: Task = CrafterTask()
    episode: Episode = task.open(0, {}, 10)
    teacher: Teacher = task.teacher("expert", {}, 0, 10)
    assert isinstance(teacher.reply(episode), str)


def test_world_is_the_one_of_the_seed() -> None:
    upstream = crafter.Env(seed=17)
    upstream.reset()
    episode = CrafterTask().open(17, {}, 10)
    assert bytes(episode.view.materials) == upstream._world._mat_map.tobytes()


def test_messages_are_the_observation_alone_or_after_a_system_message() -> None:
    (user,) = CrafterTask().open(1, {}, 10).messages()
    assert user.role == "user"
    assert user.content.startswith("face D grass.")
    system, same = CrafterTask().open(1, {"system_prompt": True, "max_actions_per_turn": 3}, 7).messages()
    assert system.role == "system"
    assert same == user
    for needed in (*ACTIONS, *ACHIEVEMENTS, "7 turns", "1 to 3 actions", '{"actions": ["move_right", "do"]}'):
        assert needed in system.content


def test_example_in_the_system_prompt_can_be_parsed() -> None:
    system = CrafterTask().open(1, {"system_prompt": True}, 10).messages()[0].content
    assert parse_actions(system, {}, 5).problem is None


@pytest.mark.slow
def test_facts_add_up() -> None:
    for seed in range(8):
        episode, facts, _ = play({}, seed)
        unlocked = [name for fact in facts for name in fact.unlocked]
        assert sorted(unlocked) == sorted(set(unlocked)) == sorted(episode.achievements)
        assert episode.outcome == len(unlocked)
        inventory: Counter[str] = Counter(ITEM_INITIAL)
        counters: Counter[str] = Counter()
        for fact in facts:
            inventory.update(fact.inventory_delta)
            counters.update(fact.counter_delta)
            assert 0 not in fact.inventory_delta.values()
            assert all(delta > 0 for delta in fact.counter_delta.values())
            assert set(fact.unlocked) <= set(fact.counter_delta)
            assert fact.env_steps == len(fact.actions) == 5 or fact.done
            assert fact.problem is None
        assert {name: inventory[name] for name in ITEM_INITIAL} == dict(episode.view.inventory)
        assert {name: counters[name] for name in ACHIEVEMENTS} == dict(episode.view.achievements)
        assert sum(fact.env_steps for fact in facts) == episode.view.step_count


def test_dying_ends_the_episode_and_the_list() -> None:
    episode = CrafterTask().open(3, {}, 10)
    episode._world._player.inventory["health"] = 0
    fact = episode.step(format_reply(["noop", "do", "do"]), {})
    assert fact.done
    assert fact.actions == ("noop",)
    assert fact.env_steps == 1
    after = episode.step(format_reply(["do"]), {})
    assert (after.done, after.actions, after.env_steps) == (True, (), 0)
    assert after.problem


def test_world_ends_at_its_length() -> None:
    episode = CrafterTask().open(3, {"length": 7}, 10)
    assert not episode.step(format_reply(["noop"] * 5), {}).done
    last = episode.step(format_reply(["noop"] * 5), {})
    assert last.done
    assert last.env_steps == 2


def test_bad_reply_is_a_fact() -> None:
    fact = CrafterTask().open(3, {}, 10).step("I don't know", {})
    assert fact.actions == ("noop",)
    assert fact.env_steps == 1
    assert fact.problem


def test_long_replies() -> None:
    assert CrafterTask().open(3, {}, 10).step(format_reply(["noop"] * 9), {}).problem
    fact = CrafterTask().open(3, {"report_cut": False}, 10).step(format_reply(["noop"] * 9), {})
    assert (fact.env_steps, fact.problem) == (5, None)


def test_tool_calls_are_read() -> None:
    call = {"function": {"name": "interact_many", "arguments": format_reply(["move_left"])}}
    assert CrafterTask().open(3, {}, 10).step("", {"tool_calls": [call]}).actions == ("move_left",)


@pytest.mark.slow
@pytest.mark.parametrize("config", [{}, WEAK, {"off_policy_rate": 0.3}])
def test_teacher_depends_on_its_seed_alone(config: dict[str, Any]) -> None:
    first, again = play(config, 5), play(config, 5)
    assert first[1:] == again[1:]
    if config:
        task = CrafterTask()
        episode = task.open(5, {}, 10)
        replies = {task.teacher("expert", config, seed, 10).reply(episode) for seed in range(20)}
        assert len(replies) > 1


@pytest.mark.slow
def test_weak_teacher_is_weak_in_the_way_asked_for() -> None:
    facts = [fact for seed in range(60) for fact in play(WEAK, seed)[1]]
    actions = [action for fact in facts for action in fact.actions]
    assert 1.6 < len(actions) / len(facts) < 2.1
    assert 0.45 < actions.count("noop") / len(actions) < 0.62
    assert sum(len(fact.unlocked) for fact in facts) / 60 < 2


@pytest.mark.slow
def test_strong_teacher_marks_what_is_not_its_own() -> None:
    played = [play({"off_policy_rate": 0.1}, seed) for seed in range(40)]
    kinds = Counter(kind for _, _, kinds in played for kind in kinds)
    assert set(kinds) == {"expert", "off_policy"}
    assert 0.05 < kinds["off_policy"] / kinds.total() < 0.16
    assert np.mean([episode.outcome for episode, _, _ in played]) > 4.5


def test_one_teacher_can_play_several_episodes() -> None:
    task = CrafterTask()
    teacher = task.teacher("expert", {"mode": "memory"}, 0, 10)
    for seed in range(3):
        episode = task.open(seed, {}, 10)
        for _ in range(3):
            assert episode.step(teacher.reply(episode), {}).problem is None


@pytest.mark.parametrize(
    ("config", "message", "hint"),
    [
        ({"rendrer": "compact"}, "unknown key 'rendrer'", "did you mean 'renderer'?"),
        ({"renderer": "emoji"}, "unknown renderer 'emoji'", ""),
        ({"max_actions_per_turn": 0}, "max_actions_per_turn", ""),
        ({"system_prompt": "yes"}, "system_prompt", ""),
    ],
)
def test_wrong_config_is_a_config_error(config: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        CrafterTask().open(0, config, 10)
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"mode": "windows"}, "mode"),
        ({"nop_rate": 0.1}, "unknown key"),
        ({"noop_rate": 0.7, "random_rate": 0.7}, "exceed 1"),
        ({"list_lengths": {"1": 0.5}}, "sum to 1"),
        ({"list_lengths": {"none": 1.0}}, "whole numbers"),
    ],
)
def test_wrong_teacher_config_is_a_config_error(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        CrafterTask().teacher("expert", config, 0, 10)
    assert message in caught.value.message


def test_unknown_teacher() -> None:
    with pytest.raises(ConfigError) as caught:
        CrafterTask().teacher("export", {}, 0, 10)
    assert "did you mean 'expert'?" in caught.value.hint


def test_every_setting_is_documented_and_has_a_default() -> None:
    assert checked(CrafterConfig, {}, "env config") == CrafterConfig()


def test_info_names_the_task_and_the_traits_of_seeds() -> None:
    info = CrafterTask().info([0, 1])
    assert info["task"]["id"] == "grpo-crafter"
    assert info["action_space"]["actions"] == list(ACTIONS)
    assert info["achievements"] == list(ACHIEVEMENTS)
    assert info["tools"][0]["function"]["name"] == "interact_many"
    assert [entry["seed"] for entry in info["seeds"]] == [0, 1]
    assert CrafterTask().info()["seeds"] == []


def test_traits_count_what_is_near_the_start() -> None:
    upstream = crafter.Env(seed=1)
    upstream.reset()
    world = upstream._world
    near = [(x, y) for x in range(64) for y in range(64) if abs(x - 32) + abs(y - 32) <= 10]
    kinds = Counter(type(world[cell][1]).__name__ for cell in near)
    assert CrafterTask().info([1])["seeds"][0]["traits"] == {
        "trees": sum(world[cell][0] == "tree" for cell in near),
        "cows": kinds["Cow"],
        "hostiles": kinds["Zombie"] + kinds["Skeleton"],
    }


def test_registry_knows_name_and_alias() -> None:
    assert set(TASKS) >= {"grpo-crafter", "crafter"}
    assert get_task("crafter").name == get_task("grpo-crafter").name == "grpo-crafter"
    with pytest.raises(NotFoundError) as caught:
        get_task("crafted")
    assert "did you mean 'crafter'?" in caught.value.hint
    assert "grpo-crafter" in caught.value.hint
