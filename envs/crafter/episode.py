"""One play-through of Crafter: single-turn chats, one per decision, over a world that keeps the state."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from envs.crafter.config import CrafterConfig
from envs.crafter.picture import data_url, png
from envs.crafter.prompt import system_prompt
from envs.crafter.rules import ACTION_ID
from envs.crafter.text import RENDERERS, Moment
from envs.crafter.tools import FALLBACK, parse_actions
from envs.crafter.view import WorldView
from envs.crafter.world import CrafterWorld, Image
from synth_ray.core.types import Message, StepFacts


class CrafterEpisode:
    """One play-through. The chat is Markov: it shows the present observation and at most the model's last calls."""

    def __init__(self, seed: int, config: CrafterConfig, max_turns: int) -> None:
        self.config = config
        self._world = CrafterWorld(length=config.length, seed=seed)
        self._world.reset()
        self._max_turns = max_turns
        self._turn = 0
        self._calls: deque[tuple[str, ...]] = deque(maxlen=config.previous_calls)
        self._complaint = ""
        self._render = RENDERERS[config.renderer]
        self._system = system_prompt(config, max_turns) if config.system_prompt else ""
        self._done = False
        self.view: WorldView = self._world.view()
        """Read-only view of the world, for teachers and viewers."""

    @property
    def achievements(self) -> tuple[str, ...]:
        """Everything unlocked so far, in the order of the game's own list."""
        return self.view.unlocked

    @property
    def outcome(self) -> float:
        """Number of unique achievements so far."""
        return float(len(self.achievements))

    @property
    def draws(self) -> bool:
        """Whether messages carry pictures."""
        return self.config.vision

    def messages(self) -> tuple[Message, ...]:
        """One user message with the observation, after the system message if there is one."""
        images = (data_url(self._world, self.config.image_size),) if self.draws else ()
        observation = Message("user", self.text(), images=images)
        return (Message("system", self._system), observation) if self._system else (observation,)

    def text(self) -> str:
        """The observation without its picture."""
        text = "" if self.config.image_only_mode else self._render(self.view, self._moment())
        return "\n\n".join(paragraph for paragraph in (text, self._complaint) if paragraph)

    def picture(self, size: int) -> bytes:
        """The world as a PNG of ``size`` x ``size`` pixels; looking changes nothing."""
        return png(self._world, size)

    def step(self, reply_text: str, extra: Mapping[str, Any]) -> StepFacts:
        """Executes the reply's actions one by one, up to the end of the world."""
        if self._done:
            return StepFacts(actions=(), done=True, problem="the episode is over")
        config = self.config
        fallback = FALLBACK if config.bad_reply == "noop" else ()
        parsed = parse_actions(
            reply_text, extra, config.max_actions_per_turn, report_cut=config.report_cut, fallback=fallback
        )
        view = self.view
        inventory, counters, unlocked = dict(view.inventory), dict(view.achievements), view.unlocked
        executed, reward = self._execute(parsed.actions)
        self._remember(executed, parsed.problem)
        return StepFacts(
            actions=executed,
            unlocked=tuple(name for name in view.unlocked if name not in unlocked),
            inventory_delta=_changes(inventory, view.inventory),
            counter_delta=_changes(counters, view.achievements),
            env_steps=len(executed),
            env_reward=reward,
            done=self._done,
            problem=parsed.problem,
        )

    def render(self, size: tuple[int, int]) -> Image:
        """The world as a picture of ``size`` (width, height) pixels; looking changes nothing."""
        return self._world.render(size)

    def _execute(self, actions: Sequence[str]) -> tuple[tuple[str, ...], float]:
        executed: list[str] = []
        total = 0.0
        for action in actions:
            _, reward, self._done, _ = self._world.step(ACTION_ID[action])
            executed.append(action)
            total += reward
            if self._done:
                break
        return tuple(executed), total

    def _remember(self, executed: tuple[str, ...], problem: str | None) -> None:
        """Keeps what the next message tells about this turn."""
        self._turn += 1
        if executed:
            self._calls.appendleft(executed)
        self._complaint = ""
        if problem and self.config.tells_problems:
            self._complaint = f"Problem with your last reply: {problem}. Executed: {', '.join(executed) or 'nothing'}."

    def _moment(self) -> Moment:
        config = self.config
        by_turn = config.step_counter == "turns"
        return Moment(
            count=self._turn if by_turn else self.view.step_count,
            limit=self._max_turns if by_turn else config.length,
            calls=tuple(self._calls) if config.previous_calls else None,
            transposed=config.transposed_map,
        )


def _changes(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    if before == after:
        return {}
    return {name: value - before[name] for name, value in after.items() if value != before[name]}
