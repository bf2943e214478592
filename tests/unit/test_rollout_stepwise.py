"""Ledgers as the HTTP contract shows them, from episodes that were really played and from recorded sums."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from envs.crafter.prices import PRICES
from envs.crafter.task import CrafterTask
from serve.task_host import TaskHost
from synth_ray.core.errors import ConfigError
from synth_ray.core.types import (
    EpisodeSpec,
    GenerateRequest,
    Provenance,
    Reply,
    RewardSpec,
    Rollout,
    StepFacts,
    StopReason,
    Turn,
)
from synth_ray.rollout.prices import price_list
from synth_ray.rollout.rewards import STRATEGIES, reward
from synth_ray.rollout.stepwise import decision_rewards, decision_samples, rollout_stepwise, stepwise_details
from synth_ray.rollout.tally import Tally


def facts(*unlocked: str, items: Mapping[str, int] | None = None, counts: Mapping[str, int] | None = None) -> StepFacts:
    return StepFacts(("do", "noop"), unlocked, items or {}, counts or {})


def played(turns: Sequence[StepFacts], spec: RewardSpec) -> Rollout:
    tally, done = Tally(), []
    for index, one in enumerate(turns):
        ledger = reward(one, tally, spec, price_list(spec, PRICES))
        done.append(Turn(index, (), Reply("x"), one, ledger, 1.0, 1.0))
        tally = tally.after(one)
    names = tuple(dict.fromkeys(name for one in turns for name in one.unlocked))
    return Rollout(
        rollout_id="r",
        run_id="run",
        task="grpo-crafter",
        seed=3,
        model="m",
        provenance=Provenance.ENGINE,
        turns=tuple(done),
        outcome=float(len(names)),
        achievements=names,
        stop_reason=StopReason.TURNS,
        started_at="2026-01-01T00:00:00+00:00",
        duration_ms=1.0,
    )


SAPLING = facts("collect_sapling", items={"sapling": 1}, counts={"collect_sapling": 1})
PLANT = facts("place_plant", items={"sapling": -1, "drink": -1}, counts={"place_plant": 1})
WOKEN = facts("wake_up", items={"energy": 1}, counts={"wake_up": 1})
MORE = facts(items={"sapling": 2}, counts={"collect_sapling": 2})
EPISODE = [facts(), SAPLING, facts(), PLANT, facts(items={"food": -1}), WOKEN, facts(), MORE]


def test_the_sums_of_a_shaped_reference_episode() -> None:
    spec = RewardSpec("per_achievement", 0.5, {"place_plant": 1.0}, {"place_plant": 2})
    rollout = played(EPISODE, spec)
    details = stepwise_details(rollout, spec)
    assert details == {
        "indicator_sum": 4,
        "reward_sum": pytest.approx(1.78),
        "resource_reward": pytest.approx(0.56),
        "new_achievements_total": 3,
        "mode": "decision_stepwise",
        "strategy": "per_achievement",
        "indicator_lambda": 0.5,
        "step_beta": 0.0,
        "weights": {"place_plant": 1.0},
        "k_limits": {"place_plant": 2},
        "unique_achievements_total": 3,
        "unique_achievements": ["collect_sapling", "place_plant", "wake_up"],
        "final_achievements": ["collect_sapling", "place_plant", "wake_up"],
    }


def test_one_turn_in_full() -> None:
    spec = RewardSpec("per_achievement", 0.3)
    two = facts("collect_sapling", items={"sapling": 2, "food": -1}, counts={"collect_sapling": 2})
    (step,) = rollout_stepwise(played([two], spec), spec)
    assert step == {
        "decision_index": 0,
        "indicator": 1,
        "new_achievements": ["collect_sapling"],
        "reward": pytest.approx(0.384),
        "strategy": "per_achievement",
        "base_reward": 1.28,
        "components": [
            {"achievement": "collect_sapling", "weight": 1.0, "count_prior": 0, "count_limit": 1, "reward": 1.0},
            {"type": "inventory", "item": "sapling", "delta": 2, "weight": 0.08, "reward": 0.16},
            {"type": "achievement_count", "name": "collect_sapling", "delta": 2, "weight": 0.06, "reward": 0.12},
        ],
        "credited_achievements": ["collect_sapling"],
        "resource_reward": 0.28,
        "inventory_deltas": {"sapling": 2},
        "achievement_count_deltas": {"collect_sapling": 2},
    }


def test_shaped_shows_the_units_that_paid_and_their_price() -> None:
    spec = RewardSpec("shaped", 0.5)
    turns = [facts(items={"stone": 3}), facts(items={"stone": -1}), facts(items={"stone": 2})]
    *_, last = rollout_stepwise(played(turns, spec), spec)
    assert last["components"] == [{"type": "inventory", "item": "stone", "delta": 1, "weight": 0.15, "reward": 0.15}]
    assert last["inventory_deltas"] == {"stone": 2}


def test_a_strategy_may_pay_for_what_did_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STRATEGIES, "rich", lambda *_: {"inventory/wood": 0.1, "counter/collect_wood": 0.2})
    spec = RewardSpec("rich")
    (step,) = rollout_stepwise(played([facts()], spec), spec)
    assert step["components"] == [
        {"type": "inventory", "item": "wood", "delta": 0, "reward": 0.1},
        {"type": "achievement_count", "name": "collect_wood", "delta": 0, "reward": 0.2},
    ]


def test_a_limit_that_is_reached_still_indicates() -> None:
    spec = RewardSpec("per_achievement", limits={"collect_sapling": 1})
    again = facts("collect_sapling")
    first, second = rollout_stepwise(played([again, again], spec), spec)
    assert (first["credited_achievements"], first["base_reward"]) == (["collect_sapling"], 1.0)
    assert (second["credited_achievements"], second["base_reward"], second["indicator"]) == ([], 0.0, 1)


def test_consistent_and_negative_scales() -> None:
    spec = RewardSpec("consistent", -1.0)
    step, empty = rollout_stepwise(played([SAPLING, facts()], spec), spec)
    assert (step["reward"], step["base_reward"], step["indicator"]) == (-1.0, 1.0, 1)
    assert step["components"][0]["achievement"] == "__indicator__"
    assert (empty["components"], empty["indicator"], empty["reward"]) == ([], 0, 0.0)
    off = RewardSpec("shaped", 0.0)
    assert stepwise_details(played(EPISODE, off), off)["reward_sum"] == 0.0


def test_decision_samples_follow_the_turns() -> None:
    spec = RewardSpec("consistent", 0.5)
    samples = decision_samples(played(EPISODE, spec), spec)
    assert [one["decision_index"] for one in samples] == list(range(8))
    assert [one["r_i"] for one in samples] == [0.0, 0.5, 0.0, 0.5, 0.0, 0.5, 0.0, 0.0]
    assert samples[1]["actions"] == [{"tool": "interact_many", "args": {"actions": ["do", "noop"]}}]
    assert (samples[1]["base"], samples[1]["strategy"], samples[1]["indicator"]) == (1.0, "consistent", 1)


def test_decision_rewards_tell_new_from_seen() -> None:
    turns = [facts("a", "b"), facts(), facts("b", "c")]
    assert decision_rewards(played(turns, RewardSpec())) == [
        {"turn": 1, "ach_delta": 2, "unique_delta": 2, "all": ["a", "b"], "unique": ["a", "b"]},
        {"turn": 2, "ach_delta": 0, "unique_delta": 0, "all": [], "unique": []},
        {"turn": 3, "ach_delta": 2, "unique_delta": 1, "all": ["b", "c"], "unique": ["c"]},
    ]


async def no_engine(requests: Sequence[GenerateRequest]) -> Sequence[Any]:
    raise AssertionError("a teacher plays")


def expert(rewards: RewardSpec) -> EpisodeSpec:
    return EpisodeSpec(
        rollout_id="r", run_id="r", task="grpo-crafter", seed=3, model="expert", provider="expert", rewards=rewards
    )


@pytest.mark.parametrize("strategy", ["outcome", "events", "consistent", "per_achievement", "shaped", "env_sparse"])
def test_an_episode_of_the_task_app_is_paid_turn_by_turn(strategy: str) -> None:
    spec = RewardSpec(strategy, 0.5)
    rollout = asyncio.run(TaskHost("grpo-crafter", no_engine).play(expert(spec)))
    assert rollout.outcome >= 3
    again = played([turn.facts for turn in rollout.turns], spec)
    assert [turn.reward for turn in rollout.turns] == [turn.reward for turn in again.turns]
    assert sum(turn.reward.total for turn in rollout.turns) > 0
    details = stepwise_details(rollout, spec)
    assert details["unique_achievements_total"] == rollout.outcome
    assert (details["resource_reward"] > 0) is (strategy in {"per_achievement", "shaped"})


def test_the_task_app_refuses_names_that_the_world_lacks() -> None:
    with pytest.raises(ConfigError, match="collect_food"):
        asyncio.run(TaskHost("grpo-crafter", no_engine).play(expert(RewardSpec("shaped", weights={"collect_food": 1}))))


def test_every_price_list_belongs_to_a_strategy() -> None:
    assert CrafterTask().prices.keys() <= STRATEGIES.keys()
