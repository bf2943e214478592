"""Many episodes through a task app, a bounded number at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from synth_ray.core.errors import PolicyError
from synth_ray.core.types import EpisodeSpec, Provenance, Rollout
from synth_ray.runtime.remote import answered

ATTEMPTS = 3


async def play_all(
    handle: Any, specs: Sequence[EpisodeSpec], concurrency: int, on_done: Callable[[Rollout], Awaitable[None]]
) -> list[Rollout]:
    """Plays every spec through the task app's ``handle``; ``on_done`` is awaited as each ends, while others play on.

    Keeps the order.
    """
    gate = asyncio.Semaphore(concurrency)

    async def one(spec: EpisodeSpec) -> Rollout:
        async with gate:
            rollout = await _play(handle, spec)
        await on_done(rollout)
        return rollout

    return await all_or_none(one(spec) for spec in specs)


async def _play(handle: Any, spec: EpisodeSpec) -> Rollout:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            rollout: Rollout = await answered(handle.play.remote(spec))
        except PolicyError:
            if attempt == ATTEMPTS:
                raise
            continue
        # A remote policy has its own retries, and every turn of its may cost money.
        if rollout.ok or attempt == ATTEMPTS or rollout.provenance is Provenance.REMOTE:
            return rollout
    raise AssertionError("unreachable")


async def all_or_none(work: Iterable[Any]) -> list[Any]:
    """Like asyncio.gather, but the first failure cancels the rest."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
