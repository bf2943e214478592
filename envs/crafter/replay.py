"""A recorded Crafter rollout, played again from its seed, its config and its actions, and checked against the record.

Invariant: what is yielded happened in the record too; at the first turn that goes otherwise, CorruptError names it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from envs.crafter.episode import CrafterEpisode
from envs.crafter.tools import format_reply
from envs.crafter.world import Image
from synth_ray.core.errors import CorruptError
from synth_ray.core.types import Rollout, StepFacts

_REWARD_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Scene:
    """The world after action ``action`` (-1: before the first) of turn ``turn``, both counted from 0.

    ``picture`` has shape (height, width, 3); ``new`` are the achievements of this turn so far.
    """

    turn: int
    action: int
    picture: Image
    unlocked: tuple[str, ...]
    new: frozenset[str]


def scenes(rollout: Rollout, episode: CrafterEpisode, size: tuple[int, int]) -> Iterator[Scene]:
    """The scenes of the rollout, in pictures of ``size`` (width, height) pixels.

    ``episode`` must be fresh, opened as the record says.

    Raises CorruptError if seed, config and actions lead to anything but what was recorded.
    """
    for index, turn in enumerate(rollout.turns):
        before = set(episode.achievements)
        done: list[StepFacts] = []
        yield Scene(index, -1, episode.render(size), episode.achievements, frozenset())
        for at, action in enumerate(turn.facts.actions):
            done.append(episode.step(format_reply([action]), {}))
            new = frozenset(episode.achievements) - before
            yield Scene(index, at, episode.render(size), episode.achievements, new)
        _check(rollout, index, turn.facts, done)
    _check_end(rollout, episode)


def _check(rollout: Rollout, index: int, recorded: StepFacts, done: Iterable[StepFacts]) -> None:
    replayed = _together(done)
    differing = [name for name, (one, other) in _compared(recorded, replayed).items() if one != other]
    if abs(recorded.env_reward - replayed.env_reward) > _REWARD_TOLERANCE:
        differing.append("env_reward")
    if differing:
        name = differing[0]
        raise CorruptError(
            f"turn {index} of rollout {rollout.rollout_id} went otherwise when it was replayed: recorded {name} "
            f"{getattr(recorded, name)!r}, replayed {getattr(replayed, name)!r}",
            "the record was changed, or another version of the world wrote it",
            turn=index,
            differing=differing,
        )


def _compared(recorded: StepFacts, replayed: StepFacts) -> dict[str, tuple[Any, Any]]:
    """What is recorded and what was replayed, by field; the order of unlocking within a turn is not recorded."""
    return {
        "actions": (recorded.actions, replayed.actions),
        "unlocked": (set(recorded.unlocked), set(replayed.unlocked)),
        "inventory_delta": (dict(recorded.inventory_delta), dict(replayed.inventory_delta)),
        "counter_delta": (dict(recorded.counter_delta), dict(replayed.counter_delta)),
        "env_steps": (recorded.env_steps, replayed.env_steps),
        "done": (recorded.done, replayed.done),
    }


def _together(parts: Iterable[StepFacts]) -> StepFacts:
    """The facts of a turn, from those of its actions one by one."""
    inventory: Counter[str] = Counter()
    counters: Counter[str] = Counter()
    steps = list(parts)
    for step in steps:
        inventory.update(step.inventory_delta)
        counters.update(step.counter_delta)
    return StepFacts(
        actions=tuple(action for step in steps for action in step.actions),
        unlocked=tuple(name for step in steps for name in step.unlocked),
        inventory_delta=_changed(inventory),
        counter_delta=_changed(counters),
        env_steps=sum(step.env_steps for step in steps),
        env_reward=sum(step.env_reward for step in steps),
        done=any(step.done for step in steps),
    )


def _changed(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def _check_end(rollout: Rollout, episode: CrafterEpisode) -> None:
    if set(rollout.achievements) != set(episode.achievements) or rollout.outcome != episode.outcome:
        raise CorruptError(
            f"rollout {rollout.rollout_id} ended otherwise when it was replayed: recorded {rollout.outcome:g} with "
            f"{sorted(rollout.achievements)}, replayed {episode.outcome:g} with {sorted(episode.achievements)}",
            "the record was changed, or another version of the world wrote it",
        )
