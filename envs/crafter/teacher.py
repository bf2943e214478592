"""The scripted expert as a teacher, with dials that make it worse on purpose."""

from __future__ import annotations

from typing import Any

import numpy as np

from envs.crafter.config import ExpertConfig
from envs.crafter.expert import Expert
from envs.crafter.rules import ACTIONS
from envs.crafter.tools import format_reply

EXPERT = "expert"
OFF_POLICY = "off_policy"


class ExpertTeacher:
    """Answers with the expert's plan for the next actions. One teacher may play many episodes, one after the other."""

    def __init__(self, config: ExpertConfig, seed: int, max_turns: int) -> None:
        self.last_kind = EXPERT
        """"expert" or "off_policy": what the last reply was; off-policy replies are no examples to learn from."""
        self._config = config
        self._random = np.random.default_rng(seed)
        self._expert = Expert(config.mode, max_turns * config.actions_per_turn, self._random)
        self._episode: Any = None
        lengths = config.list_lengths or {str(config.actions_per_turn): 1.0}
        self._lengths = [int(length) for length in lengths]
        self._chances = np.array(list(lengths.values())) / sum(lengths.values())

    def reply(self, episode: Any) -> str:
        """The text that a model should have answered now. ``episode`` must have a ``view``."""
        if episode is not self._episode:
            self._episode = episode
            self._expert.reset()
        if self._random.random() < self._config.off_policy_rate:
            self.last_kind = OFF_POLICY
            length = int(self._random.integers(1, self._config.actions_per_turn + 1))
            return format_reply([self._random_action() for _ in range(length)])
        self.last_kind = EXPERT
        length = int(self._random.choice(self._lengths, p=self._chances))
        return format_reply([self._spoiled(action) for action in self._expert.plan(episode.view, length)])

    def _spoiled(self, action: str) -> str:
        draw = self._random.random()
        if draw < self._config.noop_rate:
            return "noop"
        if draw < self._config.noop_rate + self._config.random_rate:
            return self._random_action()
        return action

    def _random_action(self) -> str:
        return ACTIONS[int(self._random.integers(len(ACTIONS)))]
