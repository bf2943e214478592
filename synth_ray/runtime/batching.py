"""From an RL config to the episodes of a step, and from their rollouts to the samples that train. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from synth_ray.core.errors import WrongWeights
from synth_ray.core.hashing import derived_seed, slot_id
from synth_ray.core.sections import Policy, RLConfig, RLTraining
from synth_ray.core.types import EpisodeSpec, RewardSpec, Rollout, Sampling, Weights
from synth_ray.learn.advantages import ADVANTAGES, EpisodeRewards
from synth_ray.learn.packing import Samples, build_samples
from synth_ray.rollout.step_rewards import find_step_rewards, reward_spec_from_block, without_step_rewards
from synth_ray.rollout.tally import tallies
from synth_ray.runtime.blending import Blend, earned_by


@dataclass(frozen=True)
class Batch:
    """One step's data: ``samples`` train; ``advantages`` maps rollout id to one number per turn."""

    samples: Samples
    advantages: Mapping[str, tuple[float, ...]]


def sampling(policy: Policy, seed: int | None) -> Sampling:
    """The sampling that a policy section asks for."""
    return Sampling(
        temperature=policy.temperature,
        top_p=policy.top_p,
        top_k=policy.top_k,
        max_tokens=policy.max_tokens,
        seed=seed,
    )


def reward_spec(config: RLConfig) -> RewardSpec:
    """The reward signal that `[training]` names, key by key overruled by `[rollout.env_config.step_rewards]`.

    Raises ConfigError for an unknown strategy and for a wrong block.
    """
    training = config.training
    block = {
        "enabled": training.step_rewards_enabled,
        "mode": training.step_rewards_mode,
        "strategy": training.step_rewards_strategy,
        "indicator_lambda": training.step_rewards_indicator_lambda,
        "step_beta": training.step_rewards_beta,
        "weights": training.step_rewards_weights,
        "k_limits": training.step_rewards_k_limits,
        "event_rewards_kind": training.event_rewards_kind,
    }
    return reward_spec_from_block({**block, **find_step_rewards(config.rollout.env_config)})


def group_specs(config: RLConfig, run: str, step: int, group: int, weights: Weights) -> list[EpisodeSpec]:
    """The rollouts of one group: one world, different sampling seeds; all derived from the slot, not from order."""
    rollout, training, rewards = config.rollout, config.training, reward_spec(config)
    first, last = rollout.seed_range
    env_seed = first + derived_seed("env", training.seed, step, group) % (last - first)
    return [
        EpisodeSpec(
            rollout_id=slot_id(run, step, group, index),
            run_id=run,
            task=rollout.env_name,
            seed=env_seed,
            model=weights.name,
            weights=weights,
            sampling=sampling(rollout.policy_config, derived_seed("sample", training.seed, step, group, index)),
            thinking=rollout.policy_config.thinking,
            env_config=without_step_rewards(rollout.env_config),
            rewards=rewards,
            max_turns=rollout.max_turns,
            deadline_s=rollout.rollout_timeout_s,
            turn_timeout_s=rollout.turn_timeout_s,
            calls_together=rollout.calls_together,
            step=step,
            group=group,
            index=index,
        )
        for index in range(training.group_size)
    ]


def check_weights(rollout: Rollout, published: Mapping[str, str]) -> None:
    """WrongWeights unless every turn was sampled by weights that this run published, under their digest."""
    for turn in rollout.turns:
        name, digest = turn.reply.weights_name, turn.reply.weights_digest
        if not digest or published.get(name) != digest:
            raise WrongWeights(
                f"rollout {rollout.rollout_id} turn {turn.index} was sampled by {name or 'unknown weights'} with "
                f"digest {digest[:12] or 'none'}, which this run never published"
            )


def build_batch(
    groups: Sequence[Sequence[Rollout]], training: RLTraining, rewards: RewardSpec, blend: Blend | None = None
) -> Batch:
    """Advantages within each group, then one sample per turn, in slot order; turns of zero advantage are left out.

    ``blend`` adds a judge's scores to what the episodes earned.
    """
    estimate = ADVANTAGES["stepwise" if rewards.stepwise else "outcome"]
    advantages: dict[str, tuple[float, ...]] = {}
    for group in groups:
        earned = [
            _adjusted(rollout, worth, training.invalid_turn_penalty, rewards.beta)
            for rollout, worth in zip(group, earned_by(group, blend), strict=True)
        ]
        values = estimate(earned, training.step_rewards_gamma, training.advantage_scale)
        for rollout, value in zip(group, values, strict=True):
            advantages[rollout.rollout_id] = tuple(float(x) for x in value)
    raw = [
        (turn.reply.prompt_ids, turn.reply.token_ids, turn.reply.logprobs, advantage)
        for group in groups
        for rollout in group
        for turn, advantage in zip(rollout.turns, advantages[rollout.rollout_id], strict=True)
    ]
    return Batch(build_samples(raw).drop_zero_advantage(), advantages)


def _adjusted(rollout: Rollout, worth: EpisodeRewards, penalty: float, beta: float) -> EpisodeRewards:
    """What the advantages see; an early unlock earns ``beta`` for its own turn and for every turn after it."""
    left = range(len(rollout.turns), 0, -1)
    turns = tuple(
        reward - penalty * (turn.facts.problem is not None) + beta * turns_left * unlocked
        for turn, reward, turns_left, unlocked in zip(
            rollout.turns, worth.turn_rewards, left, _unlocks(rollout), strict=True
        )
    )
    return EpisodeRewards(worth.outcome - penalty * rollout.invalid_turns, turns)


def _unlocks(rollout: Rollout) -> list[bool]:
    """Whether each turn unlocked something that no earlier turn had earned."""
    seen = tallies(rollout.turns)
    return [bool(tally.first_unlocks(turn.facts)) for turn, tally in zip(rollout.turns, seen, strict=True)]
