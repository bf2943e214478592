"""The task: episodes, facts, teachers, settings, registry."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import crafter
import numpy as np
import pytest

from envs.crafter.config import CrafterConfig, checked
from envs.crafter.episode import CrafterEpisode
from envs.crafter.info import difficulty
from envs.crafter.rules import ACHIEVEMENTS, ACTIONS, ITEM_INITIAL
from envs.crafter.task import CrafterTask
from envs.crafter.text import RENDERERS
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


@pytest.mark.parametrize("config", [{}, {"renderer": "seed"}, {"use_vision": True}, {"image_only_mode": True}])
def test_example_in_the_system_prompt_can_be_parsed(config: dict[str, Any]) -> None:
    system = CrafterTask().open(1, {"system_prompt": True, **config}, 10).messages()[0].content
    assert "Crafter" in system
    assert parse_actions(system, {}, 5).actions == ("move_right", "do")
    assert ("a picture" in system) == ("use_vision" in config or "image_only_mode" in config)
    assert ("each line a row" in system) == ("renderer" in config)


def test_system_prompt_says_how_the_map_lies() -> None:
    config = {"system_prompt": True, "renderer": "seed", "transposed_map": True}
    assert "each line a column" in CrafterTask().open(1, config, 10).messages()[0].content


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


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({}, False),
        ({"system_prompt": True}, True),
        ({"renderer": "seed"}, True),
        ({"image_only_mode": True}, True),
        ({"report_problems": True}, True),
        ({"renderer": "seed", "report_problems": False}, False),
    ],
)
def test_problem_is_told_in_the_next_message_only(config: dict[str, Any], told: bool) -> None:
    episode = CrafterTask().open(3, config, 10)
    assert "Problem" not in episode.messages()[-1].content
    fact = episode.step("jump, do", {})
    assert (fact.actions, fact.problem) == (("do",), 'unknown actions: "jump"')
    complaint = 'Problem with your last reply: unknown actions: "jump". Executed: do.'
    assert episode.messages()[-1].content.endswith(complaint) == told
    assert ("Problem" in episode.messages()[-1].content) == told
    episode.step(format_reply(["noop"]), {})
    assert "Problem" not in episode.messages()[-1].content


def test_tiny_model_reads_the_bare_observation_after_a_bad_reply() -> None:
    """With the settings of the quickstart nothing but the compact text is ever shown."""
    episode = CrafterTask().open(3, {"report_cut": False}, 10)
    episode.step("{", {})
    (message,) = episode.messages()
    assert message.content == RENDERERS["compact"](episode.view)


def test_bad_reply_can_be_skipped() -> None:
    episode = CrafterTask().open(3, {"bad_reply": "skip", "renderer": "seed"}, 10)
    before = episode._world._world.random.getstate()
    fact = episode.step("I don't know", {})
    assert (fact.actions, fact.env_steps, fact.env_reward, fact.done) == ((), 0, 0.0, False)
    assert fact.problem
    assert (episode.view.step_count, episode._world._world.random.getstate()) == (0, before)
    text = episode.messages()[0].content
    assert "Step: 1/10" in text
    assert text.endswith("- none\n\nProblem with your last reply: " + fact.problem + ". Executed: nothing.")


def test_last_calls_are_listed_newest_first() -> None:
    episode = CrafterTask().open(3, {"renderer": "seed", "previous_calls": 2}, 10)
    for actions in (["noop"], ["do"], ["move_left", "do"]):
        episode.step(format_reply(actions), {})
    assert episode.messages()[0].content.splitlines()[-3:] == [
        "Previous tool calls (most recent first):",
        '- interact_many: {"actions":["move_left","do"]}',
        '- interact_many: {"actions":["do"]}',
    ]
    assert "Step: 3/10" in episode.messages()[0].content
    silent = CrafterTask().open(3, {"renderer": "seed", "previous_calls": 0}, 10)
    assert silent.messages()[0].content.endswith("Choose your next actions.")


def test_original_step_counter_counts_env_steps() -> None:
    episode = CrafterTask().open(3, {"renderer": "seed", "step_counter": "env_steps"}, 10)
    episode.step(format_reply(["noop"] * 4), {})
    assert "Step: 4/10000" in episode.messages()[0].content


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
        ({"bad_reply": "die"}, "bad_reply", ""),
        ({"transposed_map": True}, "transposed_map: for renderer 'seed', not 'compact'", ""),
        ({"previous_calls": 2}, "previous_calls: for renderer 'seed'", ""),
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


def test_info_tells_what_clients_ask_for() -> None:
    info = CrafterTask().info([0, 7])
    assert json.loads(json.dumps(info)) == info
    assert info["action_space"] == {"type": "discrete", "size": 17, "actions": list(ACTIONS)}
    assert info["observation"]["keys"] == ["text", "image"]
    assert info["observation"]["image_shape"] == [252, 252, 3]
    assert info["observation"]["renderers"] == list(RENDERERS)
    assert [tool["function"]["name"] for tool in info["tools"]] == ["interact_many", "interact"]
    assert info["limits"] == {"max_actions_per_turn": 5, "max_env_steps": 10000}
    assert info["dataset"]["seed_range"] == [0, 2**31 - 1]
    assert info["dataset"]["default_split"] in info["dataset"]["splits"]
    for entry in info["seeds"]:
        assert entry["player_position"] == [32, 32]
        assert entry["inventory"] == ITEM_INITIAL
        assert entry["difficulty"] == difficulty(entry["traits"]["trees"], entry["traits"]["hostiles"])


@pytest.mark.parametrize(
    ("trees", "hostiles", "tier"),
    [
        (4, 0, "easy"),
        (3, 0, "medium"),
        (9, 1, "medium"),
        (2, 3, "hard"),
        (0, 0, "hard"),
        (9, 5, "hard"),
        (9, 6, "custom"),
    ],
)
def test_tiers_of_difficulty(trees: int, hostiles: int, tier: str) -> None:
    assert difficulty(trees, hostiles) == tier


def test_seeds_differ_in_difficulty() -> None:
    entries = CrafterTask().info([0, 5, 111])["seeds"]
    assert [entry["difficulty"] for entry in entries] == ["easy", "medium", "hard"]


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
    for name in ("crafter", "crafter-task", "grpo-crafter", "grpo-crafter-task-app"):
        assert get_task(name).name == "grpo-crafter"
    with pytest.raises(NotFoundError) as caught:
        get_task("crafted")
    assert "did you mean 'crafter'?" in caught.value.hint
    assert "grpo-crafter" in caught.value.hint
