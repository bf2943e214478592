"""Advantages: from the rewards of a group of episodes to one number per turn.

A group holds the episodes that began in the same state. Invariants: every baseline is a mean over the group, so that a
constant added to all rewards changes nothing, and a group whose episodes are equal yields zeros, that is no gradient.
Knows nothing about torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SCALES = ("std", "none")
_STD_OFFSET = 1e-4
_STD_ZERO = 1e-8


@dataclass(frozen=True, slots=True)
class EpisodeRewards:
    """What one episode earned; penalties are already inside.

    ``outcome`` is the reward of the whole episode, ``turn_rewards`` the reward of each of its turns.
    """

    outcome: float
    turn_rewards: tuple[float, ...]


Advantages = Callable[[Sequence[EpisodeRewards], float, str], list[Array]]


def outcome_advantages(outcomes: Sequence[float], n_turns: Sequence[int], scale: str) -> list[Array]:
    """One array of shape (turns,) per episode of a group: its outcome against the group's mean, the same on every turn.

    GRPO (DeepSeekMath, arXiv 2402.03300, section 4.1). ``scale`` "std" divides by the group's standard deviation,
    "none" does not (Dr. GRPO, arXiv 2503.20783, section 3.2). Raises ValueError for another scale or unequal lengths.
    """
    values = np.asarray(outcomes, dtype=np.float64)
    relative = _scaled(values - values.mean(), scale) if len(values) else values
    return [np.full(turns, value) for turns, value in zip(n_turns, relative, strict=True)]


def stepwise_advantages(turn_rewards: Sequence[Sequence[float]], gamma: float, scale: str) -> list[Array]:
    """One array of shape (turns,) per episode of a group: each turn's discounted return against the group's mean there.

    After process supervision in GRPO (DeepSeekMath, arXiv 2402.03300, section 4.1.3), discounted; here the baseline
    is the mean per turn index and the scale one standard deviation per group. A turn that a shorter episode did not
    reach counts as a return of zero. Raises ValueError for an unknown scale.
    """
    returns = _padded([returns_to_go(rewards, gamma) for rewards in turn_rewards])
    relative = _scaled(returns - returns.mean(axis=0), scale) if returns.size else returns
    return [row[: len(rewards)] for row, rewards in zip(relative, turn_rewards, strict=True)]


def returns_to_go(rewards: Sequence[float], gamma: float) -> Array:
    """Discounted sums of the rewards from each turn on, shape (turns,): ``r[t] + gamma * r[t+1] + ...``."""
    returns = np.zeros(len(rewards))
    ahead = 0.0
    for turn in reversed(range(len(rewards))):
        ahead = rewards[turn] + gamma * ahead
        returns[turn] = ahead
    return returns


def batch_advantages(
    name: str, groups: Sequence[Sequence[EpisodeRewards]], gamma: float, scale: str
) -> list[list[Array]]:
    """Advantages of several groups, each against itself: ``result[group][episode][turn]``.

    Raises ValueError for an unknown name or scale.
    """
    if name not in ADVANTAGES:
        raise ValueError(f"unknown advantage {name!r}; known: {', '.join(ADVANTAGES)}")
    return [ADVANTAGES[name](group, gamma, scale) for group in groups]


def _outcome(group: Sequence[EpisodeRewards], gamma: float, scale: str) -> list[Array]:
    return outcome_advantages(
        [episode.outcome for episode in group], [len(episode.turn_rewards) for episode in group], scale
    )


def _stepwise(group: Sequence[EpisodeRewards], gamma: float, scale: str) -> list[Array]:
    return stepwise_advantages([episode.turn_rewards for episode in group], gamma, scale)


ADVANTAGES: dict[str, Advantages] = {"outcome": _outcome, "stepwise": _stepwise}


def _scaled(centred: Array, scale: str) -> Array:
    if scale not in SCALES:
        raise ValueError(f"unknown scale {scale!r}; known: {', '.join(SCALES)}")
    std = float(centred.std())
    if std < _STD_ZERO:
        return np.zeros_like(centred)
    return centred / (std + _STD_OFFSET) if scale == "std" else centred


def _padded(rows: Sequence[Array]) -> Array:
    table = np.zeros((len(rows), max((len(row) for row in rows), default=0)))
    for index, row in enumerate(rows):
        table[index, : len(row)] = row
    return table
