"""The episode loop where an episode draws: pictures leave the event loop, and a late drawing changes nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from envs.crafter import episode as crafter_episode
from envs.crafter.task import CrafterTask
from synth_ray.core.types import EpisodeSpec, Message, Rollout, StepFacts, StopReason
from synth_ray.rollout.episode import play
from synth_ray.rollout.policy import TeacherPolicy


class Album:
    """Its first picture is drawn at once, later ones when ``canvas`` is set; it counts its steps."""

    draws = True
    outcome = 0.0
    achievements: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.canvas, self.steps = threading.Event(), 0
        self.threads: list[str] = []

    def messages(self) -> tuple[Message, ...]:
        self.threads.append(threading.current_thread().name)
        if self.steps:
            self.canvas.wait(10)
        return (Message("user", self.text(), images=("data:,",)),)

    def text(self) -> str:
        return f"step {self.steps}"

    def step(self, reply_text: str, extra: Mapping[str, Any]) -> StepFacts:
        self.steps += 1
        return StepFacts(("noop",))


class Nod:
    """A teacher of everything."""

    def reply(self, episode: Any) -> str:
        return "noop"


def spec(**settings: Any) -> EpisodeSpec:
    return EpisodeSpec("r", "run", "album", 3, "nod", provider="nod", **settings)


async def watched(episode: Any, one: EpisodeSpec, teacher: Any) -> tuple[Rollout, int]:
    """The rollout, and how often the event loop went round meanwhile."""
    rounds, playing = 0, asyncio.ensure_future(play(one, episode, TeacherPolicy(teacher)))
    while not playing.done():
        await asyncio.sleep(0.005)
        rounds += 1
    return await playing, rounds


def test_others_have_their_turns_while_a_picture_is_drawn() -> None:
    episode = Album()

    async def main() -> tuple[Rollout, int]:
        asyncio.get_running_loop().call_later(0.3, episode.canvas.set)
        return await watched(episode, spec(max_turns=2), Nod())

    rollout, rounds = asyncio.run(main())
    assert (len(rollout.turns), rollout.final_text) == (2, "step 2")
    assert rounds > 10
    assert len(episode.threads) == 2  # The last text is not drawn.
    assert threading.main_thread().name not in episode.threads


def test_a_deadline_that_ends_a_drawing_leaves_the_turns_before_it() -> None:
    episode = Album()

    async def main() -> Rollout:
        rollout, _ = await watched(episode, spec(max_turns=5, deadline_s=0.2), Nod())
        assert not episode.canvas.is_set()  # It still draws.
        episode.canvas.set()
        return rollout

    rollout = asyncio.run(main())
    assert (rollout.stop_reason, len(rollout.turns), episode.steps) == (StopReason.DEADLINE, 1, 1)
    assert (rollout.turns[0].messages[0].content, rollout.final_text) == ("step 0", "step 1")


@pytest.mark.parametrize("config", [{"use_vision": True, "image_size": 63}, {"image_only_mode": True}, {}])
def test_crafter_draws_in_a_thread_and_only_what_is_shown(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[bool] = []

    def data_url(world: Any, size: int) -> str:
        drawn.append(threading.current_thread() is threading.main_thread())
        return "data:,"

    monkeypatch.setattr(crafter_episode, "data_url", data_url)
    episode = CrafterTask().open(3, config, 3)
    rollout, _ = asyncio.run(watched(episode, spec(max_turns=3), Nod()))
    assert drawn == ([False] * 3 if config else [])
    assert rollout.final_text == episode.messages()[-1].content
    assert [len(turn.messages[-1].images) for turn in rollout.turns] == [int(bool(config))] * 3


def test_a_text_stays_on_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a thread was asked")

    monkeypatch.setattr(asyncio, "to_thread", refuse)
    episode = CrafterTask().open(3, {}, 3)
    assert len(asyncio.run(play(spec(max_turns=3), episode, TeacherPolicy(Nod()))).turns) == 3
