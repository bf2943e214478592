"""What a world must offer to be trained on: a task opens single-use episodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from synth_ray.core.types import Message, Rollout, StepFacts


class Episode(Protocol):
    """One play-through. Single-use: opened with a seed, stepped until done, then thrown away."""

    @property
    def achievements(self) -> tuple[str, ...]:
        """Everything unlocked so far, in a fixed order."""
        ...

    @property
    def outcome(self) -> float:
        """The outcome reward so far (Crafter: number of unique achievements)."""
        ...

    def messages(self) -> tuple[Message, ...]:
        """The chat that asks for the next decision."""
        ...

    def step(self, reply_text: str, extra: Mapping[str, Any]) -> StepFacts:
        """Parses the reply, acts, and says what it did. A bad reply is a fact with a ``problem``, no exception."""
        ...


class Teacher(Protocol):
    """A scripted policy that may look at the episode itself instead of at the text."""

    def reply(self, episode: Any) -> str:
        """The text that a model should have answered now."""
        ...


class Task(Protocol):
    """A world: opens episodes and offers teachers."""

    name: str

    def open(self, seed: int, config: Mapping[str, Any], max_turns: int) -> Episode:
        """Starts an episode. Raises ConfigError for an unknown or wrong entry of ``config``."""
        ...

    def teacher(self, name: str, config: Mapping[str, Any], seed: int, max_turns: int) -> Teacher:
        """A scripted policy by name; ``seed`` fixes its random choices. Raises ConfigError for an unknown name."""
        ...

    def info(self, seeds: Sequence[int] = ()) -> dict[str, Any]:
        """What `GET /task_info` says of the task."""
        ...


@runtime_checkable
class Replayable(Protocol):
    """A task whose recorded rollouts can be played again and seen."""

    def replay(self, rollout: Rollout, scale: int) -> Iterator[Any]:
        """One frame (``envs.film.Frame``) per turn and per action, from nothing but seed, config and actions.

        Raises CorruptError at the first turn that goes otherwise than recorded.
        """
        ...
