"""stats.jsonl equals, byte by byte, what upstream's recorder writes for the same episodes."""

from __future__ import annotations

import json
from pathlib import Path

import crafter
import pytest

from envs.crafter.rules import ACHIEVEMENTS, ACTION_ID
from envs.crafter.score import crafter_score
from envs.crafter.stats import FILE_NAME, append_stats, episode_stats
from envs.crafter.task import CrafterTask
from envs.crafter.world import CrafterWorld
from synth_ray.core.types import StepFacts


def played(seed: int, length: int) -> list[StepFacts]:
    task = CrafterTask()
    episode = task.open(seed, {"length": length}, 100)
    teacher = task.teacher("expert", {"mode": "memory"}, seed, 100)
    turns = [episode.step(teacher.reply(episode), {})]
    while not turns[-1].done:
        turns.append(episode.step(teacher.reply(episode), {}))
    return turns


@pytest.mark.slow
def test_same_lines_as_upstreams_recorder(tmp_path: Path) -> None:
    for seed in range(5):
        turns = played(seed, 117)
        world = CrafterWorld(seed=seed, length=117)
        recorder = crafter.Recorder(world, tmp_path / "theirs", save_video=False, save_episode=False)
        recorder.reset()
        for action in (action for facts in turns for action in facts.actions):
            recorder.step(ACTION_ID[action])
        append_stats(tmp_path / "deep" / "ours", episode_stats(turns))
    ours = (tmp_path / "deep" / "ours" / FILE_NAME).read_bytes()
    assert ours == (tmp_path / "theirs" / FILE_NAME).read_bytes()
    lines = [json.loads(line) for line in ours.splitlines()]
    assert len(lines) == 5
    unlocked = [{name for name in ACHIEVEMENTS if line[f"achievement_{name}"]} for line in lines]
    assert crafter_score(unlocked) > 5
    assert any(line["length"] == 117 and line["reward"] > 3 for line in lines)


def test_an_episode_without_turns() -> None:
    assert episode_stats([]) == {"length": 0, "reward": 0.0, **{f"achievement_{name}": 0 for name in ACHIEVEMENTS}}
