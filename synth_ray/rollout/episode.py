"""The episode loop: observe, ask, parse, act, reward, record.

Invariants: every turn in the result was really played; a failure of the policy ends the episode as data
(``StopReason.ERROR``) and never loses the turns before it; nothing waits longer than the episode's deadline.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

from synth_ray.core.errors import PolicyError
from synth_ray.core.types import EpisodeSpec, Provenance, Rollout, StopReason, Turn
from synth_ray.rollout.policy import Policy
from synth_ray.rollout.rewards import reward
from synth_ray.rollout.task import Episode

_PROVENANCE = {"engine": Provenance.ENGINE, "remote": Provenance.REMOTE}


async def play(spec: EpisodeSpec, episode: Episode, policy: Policy) -> Rollout:
    """Plays ``episode`` to its end, its turn limit or its deadline."""
    started_at, start = datetime.now(UTC).isoformat(), time.monotonic()
    turns: list[Turn] = []
    stop, error = StopReason.TURNS, None
    for index in range(spec.max_turns):
        left_s = spec.deadline_s - (time.monotonic() - start)
        try:
            turn = await asyncio.wait_for(_turn(spec, episode, policy, index), timeout=max(left_s, 0.0))
        except TimeoutError:
            stop, error = StopReason.DEADLINE, f"turn {index} did not end within the episode's {spec.deadline_s:.0f} s"
            break
        except PolicyError as failure:
            stop, error = StopReason.ERROR, f"turn {index}: {failure.message}"
            break
        turns.append(turn)
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
        env_config=spec.env_config,
    )


async def _turn(spec: EpisodeSpec, episode: Episode, policy: Policy, index: int) -> Turn:
    messages = episode.messages()
    asked = time.perf_counter()
    reply = await policy.reply(messages, index, episode)
    answered = time.perf_counter()
    facts = episode.step(reply.text, reply.extra)
    return Turn(
        index=index,
        messages=messages,
        reply=reply,
        facts=facts,
        reward=reward(facts, spec.rewards),
        sample_ms=(answered - asked) * 1e3,
        env_ms=(time.perf_counter() - answered) * 1e3,
    )
