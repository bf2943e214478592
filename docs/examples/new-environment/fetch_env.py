"""Fetch: water lies up to four steps to the left or to the right. Walk there, then drink: two achievements."""

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from synth_ray.core.errors import ConfigError
from synth_ray.core.types import Message, StepFacts
from synth_ray.rollout.task import Task

STEPS = {"move_left": -1, "move_right": 1, "do": 0}


class FetchEpisode:
    def __init__(self, seed: int) -> None:
        self.offset = random.Random(seed).choice([-4, -3, -2, -1, 1, 2, 3, 4])
        self.achievements: tuple[str, ...] = ()

    @property
    def outcome(self) -> float:
        return float(len(self.achievements))

    def messages(self) -> tuple[Message, ...]:
        side = "L" if self.offset < 0 else "R"
        return (Message("user", f"near water {abs(self.offset)}{side}." if self.offset else "face water."),)

    def step(self, reply_text: str, extra: Mapping[str, Any]) -> StepFacts:
        before = self.achievements
        moves, problem = read(reply_text)
        for action in moves:
            self.offset = max(-4, min(4, self.offset - STEPS[action]))
            if self.offset == 0:
                reached = ("find_water", "drink") if action == "do" else ("find_water",)
                self.achievements = tuple(dict.fromkeys((*self.achievements, *reached)))
        new = tuple(name for name in self.achievements if name not in before)
        return StepFacts(tuple(moves), new, env_steps=len(moves), done="drink" in self.achievements, problem=problem)


def read(reply_text: str) -> tuple[list[str], str | None]:
    """The actions of a reply such as {"actions": ["move_left", "do"]}, and what is wrong with it."""
    try:
        wanted = json.loads(reply_text)["actions"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return [], 'no {"actions": [...]} in the reply'
    known = [name for name in wanted if isinstance(name, str) and name in STEPS] if isinstance(wanted, list) else []
    return known[:5], None if known else "no usable action"


class Guide:
    """Knows the way, but takes it in a share ``skill`` of its turns only."""

    def __init__(self, seed: int, skill: float) -> None:
        self.random, self.skill = random.Random(seed), skill

    def reply(self, episode: FetchEpisode) -> str:
        way = ["move_right" if episode.offset > 0 else "move_left"] * abs(episode.offset) + ["do"]
        guess = self.random.choices(list(STEPS), k=self.random.randint(1, 5))
        return json.dumps({"actions": way if self.random.random() < self.skill else guess})


class FetchTask(Task):
    name = "fetch"
    teachers = ("expert",)

    def open(self, seed: int, config: Mapping[str, Any], max_turns: int) -> FetchEpisode:
        return FetchEpisode(seed)

    def teacher(self, name: str, config: Mapping[str, Any], seed: int, max_turns: int) -> Guide:
        if name != "expert":
            raise ConfigError(f"fetch has no teacher {name!r}", "its teacher is called expert")
        skill = config.get("skill", 1.0)
        if not isinstance(skill, int | float):
            raise ConfigError(f"skill must be a number, not {skill!r}", "for example skill = 0.35")
        return Guide(seed, skill)

    def info(self, seeds: Sequence[int] = ()) -> dict[str, Any]:
        task = {"id": "fetch", "name": "Fetch", "version": "1.0.0", "description": "Walk to the water and drink."}
        return {"task": task, "achievements": ["find_water", "drink"], "action_space": list(STEPS)}
