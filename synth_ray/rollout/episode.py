"""The episode loop: observe, ask, parse, act, reward, record.

Invariants: every turn in the result was really played; a failure of the policy ends the episode as data
(``StopReason.ERROR``) and never loses the turns before it; no turn waits longer than its own timeout, nor than the
episode's deadline; pictures are drawn in threads, and an episode that was late while it drew is not stepped again.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

from synth_ray.core.errors import PolicyError
from synth_ray.core.types import EpisodeSpec, Message, Provenance, Rollout, StopReason, Turn
from synth_ray.rollout.policy import Policy
from synth_ray.rollout.prices import Prices
from synth_ray.rollout.rewards import reward
from synth_ray.rollout.tally import Tally
from synth_ray.rollout.task import Episode, Illustrated

NOTHING_PRICED = Prices()
_SLICE_S = 0.005
_PROVENANCE = {"engine": Provenance.ENGINE, "remote": Provenance.REMOTE}


async def play(spec: EpisodeSpec, episode: Episode, policy: Policy, prices: Prices = NOTHING_PRICED) -> Rollout:
    """Plays ``episode`` to its end, its turn limit or its deadline; ``prices`` is the world's list for the rewards."""
    started_at, start = datetime.now(UTC).isoformat(), time.monotonic()
    turns: list[Turn] = []
    tally, turns_of_others = Tally(), _Fairness()
    stop, error = StopReason.TURNS, None
    for index in range(spec.max_turns):
        left_s = spec.deadline_s - (time.monotonic() - start)
        try:
            async with asyncio.timeout(min(left_s, spec.turn_timeout_s)):
                await turns_of_others.let_in()
                turn = await _turn(spec, episode, policy, index, tally, prices)
        except TimeoutError:
            stop, error = StopReason.DEADLINE, _late(spec, index, left_s)
            break
        except PolicyError as failure:
            hint = f" ({failure.hint})" if failure.hint else ""
            stop, error = StopReason.ERROR, f"turn {index}: {failure.message}{hint}"
            break
        turns.append(turn)
        tally = tally.after(turn.facts)
        if turn.facts.done:
            stop = StopReason.DONE
            break
    return Rollout(
        rollout_id=spec.rollout_id,
        run_id=spec.run_id,
        task=spec.task,
        seed=spec.seed,
        model=spec.model,
        provenance=_PROVENANCE.get(spec.provider, Provenance.EXPERT),
        turns=tuple(turns),
        outcome=episode.outcome,
        achievements=episode.achievements,
        stop_reason=stop,
        started_at=started_at,
        duration_ms=(time.monotonic() - start) * 1e3,
        step=spec.step,
        group=spec.group,
        index=spec.index,
        error=error,
        final_text=_text(episode),
        env_config=spec.env_config,
    )


class _Fairness:
    """Lets other episodes have their turns where the policy never waits for anything."""

    def __init__(self) -> None:
        self._loop, self._went_round, self._since = asyncio.get_running_loop(), True, 0.0

    async def let_in(self) -> None:
        """Goes round the event loop if nobody else has had it for a while."""
        now = time.monotonic()
        if not self._went_round:
            if now - self._since < _SLICE_S:
                return
            await asyncio.sleep(0)
        self._went_round, self._since = False, now
        self._loop.call_soon(self._round)

    def _round(self) -> None:
        self._went_round = True


def _late(spec: EpisodeSpec, index: int, left_s: float) -> str:
    if spec.turn_timeout_s < left_s:
        return f"turn {index} did not end within {spec.turn_timeout_s:g} s"
    return f"turn {index} did not end within the episode's {spec.deadline_s:g} s"


async def _turn(spec: EpisodeSpec, episode: Episode, policy: Policy, index: int, tally: Tally, prices: Prices) -> Turn:
    messages = await messages_of(episode)
    asked = time.perf_counter()
    reply = await policy.reply(messages, index, episode)
    answered = time.perf_counter()
    facts = episode.step(reply.text, reply.extra)
    return Turn(
        index=index,
        messages=messages,
        reply=reply,
        facts=facts,
        reward=reward(facts, tally, spec.rewards, prices),
        sample_ms=(answered - asked) * 1e3,
        env_ms=(time.perf_counter() - answered) * 1e3,
    )


async def messages_of(episode: Episode) -> tuple[Message, ...]:
    """The chat; a text is made at once, pictures in a thread, so that other episodes go on meanwhile."""
    if getattr(episode, "draws", False):  # isinstance with a protocol takes as long as making the text.
        return await asyncio.to_thread(episode.messages)
    return episode.messages()


def _text(episode: Episode) -> str:
    return episode.text() if isinstance(episode, Illustrated) else episode.messages()[-1].content
