"""What a world must offer to be trained on: a task opens single-use episodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from synth_ray.core.errors import ConfigError
from synth_ray.core.types import Message, Rollout, StepFacts
from synth_ray.rollout.prices import Prices


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


@runtime_checkable
class Illustrated(Protocol):
    """An episode whose ``messages`` may hold pictures, which take long to draw.

    If it ``draws``, ``messages`` is called in a thread. It must change nothing that ``text``, ``achievements`` and
    ``outcome`` read: after a deadline they are asked while it may still draw.
    """

    @property
    def draws(self) -> bool:
        """Whether this episode's messages hold pictures."""
        ...

    def text(self) -> str:
        """The content of the last message, without drawing anything."""
        ...


class Teacher(Protocol):
    """A scripted policy that may look at the episode itself instead of at the text."""

    def reply(self, episode: Any) -> str:
        """The text that a model should have answered now."""
        ...


class Task(Protocol):
    """A world: opens episodes, offers teachers (``teachers`` are their names), and says what its things are worth.

    A task of one's own subclasses this and overrides what it has; ``open`` is the least.
    """

    name: str
    teachers: tuple[str, ...] = ()

    @property
    def prices(self) -> Mapping[str, Prices]:
        """Price lists by reward strategy; a strategy without one pays no items and no counters."""
        return {}

    def open(self, seed: int, config: Mapping[str, Any], max_turns: int) -> Episode:
        """Starts an episode. Raises ConfigError for an unknown or wrong entry of ``config``."""
        ...

    def teacher(self, name: str, config: Mapping[str, Any], seed: int, max_turns: int) -> Teacher:
        """A scripted policy by name; ``seed`` fixes its random choices. Raises ConfigError for an unknown name."""
        raise ConfigError(f"{self.name} has no teacher {name!r}")

    def tools(self, config: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The tools by which a model acts in an episode with that ``config``, in OpenAI's shape."""
        return []

    def tool_call(self, reply_text: str) -> tuple[str, dict[str, Any]] | None:
        """Name and arguments of the tool call that a reply in text stands for; None if it names no action."""
        return None

    def info(self, seeds: Sequence[int] = ()) -> dict[str, Any]:
        """What `GET /task_info` says of the task."""
        return {"task": {"id": self.name, "name": self.name}}


@runtime_checkable
class Replayable(Protocol):
    """A task whose recorded rollouts can be played again and seen."""

    def replay(self, rollout: Rollout, scale: int) -> Iterator[Any]:
        """One frame (``envs.film.Frame``) per turn and per action, from nothing but seed, config and actions.

        Raises CorruptError at the first turn that goes otherwise than recorded.
        """
        ...
