"""From config keys to reward specs, from ledgers to advantages, and to the numbers of a step."""

from pathlib import Path
from typing import Any

import pytest

from envs.crafter.prices import PRICES
from synth_ray.core.config import load_config, validate
from synth_ray.core.errors import ConfigError
from synth_ray.core.sections import RLConfig
from synth_ray.core.types import (
    Provenance,
    Reply,
    RewardParts,
    RewardSpec,
    Rollout,
    StepFacts,
    StopReason,
    Turn,
    Weights,
)
from synth_ray.rollout.prices import price_list
from synth_ray.rollout.reward_metrics import reward_metrics
from synth_ray.runtime.batching import build_batch, group_specs, reward_spec

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SEED_STYLE = {
    "step_rewards_enabled": True,
    "step_rewards_mode": "decision_stepwise",
    "step_rewards_strategy": "per_achievement",
    "step_rewards_indicator_lambda": 0.5,
    "step_rewards_beta": 0.0,
    "step_rewards_weights": {"collect_wood": 0.8, "collect_food": 0.4},
    "step_rewards_k_limits": {"collect_wood": 4, "collect_food": 3},
    "event_rewards_kind": "unique",
}


def config(training: dict[str, Any] | None = None, env_config: dict[str, Any] | None = None) -> RLConfig:
    return validate(
        RLConfig, {"model": {"base": "m"}, "training": training or {}, "rollout": {"env_config": env_config or {}}}
    )


@pytest.mark.parametrize(("mode", "switch"), [(None, None), ("think", True), ("no_think", False)])
def test_the_thinking_mode_becomes_the_templates_switch(mode: str | None, switch: bool | None) -> None:
    policy = {"thinking_mode": mode} if mode else {}
    given = validate(RLConfig, {"model": {"base": "m"}, "rollout": {"policy_config": policy}})
    assert {spec.thinking for spec in group_specs(given, "run", 0, 0, Weights("d", "x"))} == {switch}


def test_training_keys_become_the_spec() -> None:
    expected = RewardSpec(
        "per_achievement", 0.5, {"collect_wood": 0.8, "collect_food": 0.4}, {"collect_wood": 4, "collect_food": 3}
    )
    assert reward_spec(config(SEED_STYLE)) == expected
    assert reward_spec(config({"rewards": SEED_STYLE})) == expected
    assert reward_spec(config()) == RewardSpec("outcome")
    assert reward_spec(config({"step_rewards_enabled": True})) == RewardSpec("consistent")
    assert reward_spec(config({**SEED_STYLE, "step_rewards_mode": "off"})) == RewardSpec("outcome")
    assert reward_spec(config({"step_rewards_enabled": True, "step_rewards_mode": "env_sparse"})).strategy == (
        "env_sparse"
    )


def test_the_worlds_block_wins_key_by_key_and_the_world_does_not_see_it() -> None:
    both = config(SEED_STYLE, {"renderer": "compact", "step_rewards": {"strategy": "shaped", "step_beta": 0.1}})
    spec = reward_spec(both)
    assert (spec.strategy, spec.scale, spec.beta, spec.limits["collect_wood"]) == ("shaped", 0.5, 0.1, 4)
    (episode, *_) = group_specs(both, "run", 0, 0, Weights("/m", "b"))
    assert episode.env_config == {"renderer": "compact"}
    assert episode.rewards == spec
    only = config(None, {"step_rewards": {"enabled": True, "mode": "decision_stepwise", "strategy": "simple"}})
    assert reward_spec(only) == RewardSpec("consistent")
    assert reward_spec(config(SEED_STYLE, {"step_rewards": {"enabled": False}})) == RewardSpec("outcome")


@pytest.mark.parametrize(
    ("training", "env_config", "names"),
    [
        ({"step_rewards_strategy": "shapd"}, {}, "shapd"),
        ({}, {"step_rewards": {"strategie": "shaped"}}, "step_rewards.strategie"),
        ({}, {"step_rewards": True}, "must be a table"),
        ({"step_rewards_k_limits": {"collect_wood": 1.5}}, {}, "step_rewards_k_limits"),
        ({"step_rewards_beta": float("nan")}, {}, "step_rewards_beta"),
        ({"rewards": {"step_rewards_beta": 1}, "step_rewards_beta": 2}, {}, "both in"),
        ({"rewards": {"step_rewards_stratgy": "x"}}, {}, "step_rewards_stratgy"),
        ({"rewards": 3}, {}, "training.rewards"),
    ],
)
def test_wrong_keys_are_named(training: dict[str, Any], env_config: dict[str, Any], names: str) -> None:
    with pytest.raises(ConfigError) as caught:
        reward_spec(config(training, env_config))
    assert names in caught.value.message


def rollout(name: str, turns: list[tuple[dict[str, float], tuple[str, ...]]]) -> Rollout:
    done = tuple(
        Turn(
            at,
            (),
            Reply("x", {}, (1,), (2,), (-0.5,)),
            StepFacts(("do",), names, {}, dict.fromkeys(names, 1)),
            RewardParts(parts),
            1.0,
            1.0,
        )
        for at, (parts, names) in enumerate(turns)
    )
    achievements = tuple(dict.fromkeys(name for _, names in turns for name in names))
    return Rollout(
        rollout_id=name,
        run_id="run",
        task="t",
        seed=0,
        model="m",
        provenance=Provenance.ENGINE,
        turns=done,
        outcome=float(len(achievements)),
        achievements=achievements,
        stop_reason=StopReason.TURNS,
        started_at="",
        duration_ms=1.0,
    )


PAID: dict[str, float] = {"unlocked_any": 1.0}
EARLY = rollout("early", [(PAID, ("a",)), ({}, ()), ({}, ())])
LATE = rollout("late", [({}, ()), ({}, ()), (PAID, ("a",))])


def advantages(rewards: RewardSpec, *group: Rollout) -> dict[str, tuple[float, ...]]:
    training = config({"advantage_scale": "none", "step_rewards_gamma": 0.0}).training
    return dict(build_batch([group], training, rewards).advantages)


def test_the_spec_says_whether_turns_are_paid_one_by_one() -> None:
    assert advantages(RewardSpec("outcome"), EARLY, LATE) == {"early": (0.0,) * 3, "late": (0.0,) * 3}
    assert advantages(RewardSpec("consistent"), EARLY, LATE) == {"early": (0.5, 0.0, -0.5), "late": (-0.5, 0.0, 0.5)}


def test_beta_pays_an_unlock_for_every_turn_that_is_left() -> None:
    values = advantages(RewardSpec("consistent", beta=0.1), EARLY, LATE)
    assert values["early"] == pytest.approx((0.65, 0.0, -0.55))
    again = rollout("again", [(PAID, ("a",)), (PAID, ("a",)), ({}, ())])
    with_again = advantages(RewardSpec("consistent", beta=0.1), again, rollout("none", [({}, ())] * 3))
    assert with_again["again"] == pytest.approx((0.65, 0.5, 0.0))
    assert advantages(RewardSpec("outcome", beta=0.1), EARLY, LATE)["early"] == (0.0,) * 3


def test_metrics_are_means_per_rollout() -> None:
    one = rollout("one", [({"achievement/a": 0.5, "inventory/wood": 0.1}, ("a",)), ({"inventory/wood": 0.2}, ())])
    two = rollout("two", [({"counter/b": 0.4, "achievement/b": 0.5}, ("b",)), ({}, ("a",))])
    assert reward_metrics([one, two], RewardSpec("per_achievement", 0.5)) == pytest.approx(
        {
            "reward/achievement/a/mean": 0.25,
            "reward/achievement/b/mean": 0.25,
            "reward/counter/b/mean": 0.2,
            "reward/inventory/wood/mean": 0.15,
            "reward/ledger/mean": 0.85,
            "resource_reward": 0.7,
            "unique_achievements_total": 2.0,
        }
    )
    assert reward_metrics([one], RewardSpec("shaped", 0.0))["resource_reward"] == 0.0


@pytest.mark.parametrize("overlay", sorted((CONFIGS / "rewards").glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_signals_go_on_top_of_the_quickstart(overlay: Path) -> None:
    base = CONFIGS / "quickstart" / "rl_weak.toml"
    merged = load_config(RLConfig, [base, overlay]).config
    spec = reward_spec(merged)
    price_list(spec, PRICES)
    expected = {
        "outcome": "outcome",
        "stepwise_simple": "consistent",
        "stepwise_shaped": "shaped",
        "judged": reward_spec(load_config(RLConfig, [base]).config).strategy,
    }
    assert spec.strategy == expected.get(overlay.stem, overlay.stem.removeprefix("stepwise_"))
    assert merged.training.iterations == load_config(RLConfig, [base]).config.training.iterations
