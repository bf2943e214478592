"""The running count of an episode: what its earlier turns add up to, as far as rewards look at it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from synth_ray.core.types import StepFacts, Turn


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts over the turns before this one; a fresh one begins an episode.

    ``earned``: how often each achievement was earned. ``held``: how far each item is above its amount at the start.
    ``peak``: the highest ``held`` at the end of any turn, never below 0; items that were never above 0 are left out.
    """

    earned: Mapping[str, int] = field(default_factory=dict)
    held: Mapping[str, int] = field(default_factory=dict)
    peak: Mapping[str, int] = field(default_factory=dict)

    def after(self, facts: StepFacts) -> Tally:
        """The tally that the next turn sees."""
        earned = _sums(self.earned, earnings(facts))
        held = _sums(self.held, facts.inventory_delta)
        raised = {item: self.peak.get(item, 0) + self.above_peak(item, facts) for item in facts.inventory_delta}
        return Tally(earned, held, {**self.peak, **{item: level for item, level in raised.items() if level}})

    def above_peak(self, item: str, facts: StepFacts) -> int:
        """How far ``facts`` lifts ``item`` above everything held before, at least 0."""
        held = self.held.get(item, 0) + facts.inventory_delta.get(item, 0)
        return max(0, held - self.peak.get(item, 0))

    def first_unlocks(self, facts: StepFacts) -> tuple[str, ...]:
        """The achievements of ``facts`` that were never earned before."""
        return tuple(name for name in facts.unlocked if not self.earned.get(name, 0))


def earnings(facts: StepFacts) -> dict[str, int]:
    """How often the turn earned each achievement: its counter's growth, at least once for a new unlock."""
    grown = {name: delta for name, delta in facts.counter_delta.items() if delta > 0}
    return dict.fromkeys(facts.unlocked, 1) | grown


def tallies(turns: Sequence[Turn]) -> list[Tally]:
    """The tally that each turn of an episode saw."""
    seen = [Tally()]
    for turn in turns[:-1]:
        seen.append(seen[-1].after(turn.facts))
    return seen[: len(turns)]


def _sums(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {**one, **{name: one.get(name, 0) + delta for name, delta in other.items()}}
