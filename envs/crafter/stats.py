"""``stats.jsonl`` as upstream's recorder writes it: one line per episode, for the Crafter paper's own plots."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from envs.crafter.rules import ACHIEVEMENTS
from synth_ray.core.types import StepFacts

FILE_NAME = "stats.jsonl"


def episode_stats(turns: Iterable[StepFacts]) -> dict[str, float]:
    """One episode's line: length in env steps, upstream's reward, and how often each achievement was earned."""
    length, reward = 0, 0.0
    counts: Counter[str] = Counter()
    for facts in turns:
        length += facts.env_steps
        reward += facts.env_reward
        counts.update(facts.counter_delta)
    achievements = {f"achievement_{name}": counts[name] for name in ACHIEVEMENTS}
    return {"length": length, "reward": round(reward, 1), **achievements}


def append_stats(directory: Path, stats: dict[str, float]) -> None:
    """Adds one line to ``stats.jsonl`` in ``directory``, which is made if it is missing."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / FILE_NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps(stats) + "\n")
