"""Work that is done once per id: who asks again while it runs joins it, who asks later gets the kept result.

Invariants: at most one execution per id at a time; a different request under an id in use is a conflict; a result that
is not worth keeping is forgotten, so the same id can be tried again; what is kept is bounded in number and in time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from synth_ray.core.errors import ConflictError

R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True)
class Keeping:
    """How long results are kept, and how long work goes on that nobody waits for any more.

    ``results`` finished results are kept at most, each for ``result_s``. ``abandoned`` executions without a caller may
    run on, each for ``abandoned_s``, so that a caller whose connection broke finds its work when it comes again.
    """

    results: int = 256
    result_s: float = 600.0
    abandoned: int = 64
    abandoned_s: float = 30.0


@dataclass
class _Running(Generic[R, T]):
    request: R
    task: asyncio.Task[T]
    callers: int = 0
    giving_up: asyncio.TimerHandle | None = None
    """Set while nobody waits for it."""


@dataclass(frozen=True)
class _Kept(Generic[R, T]):
    request: R
    result: T
    until: float


class OncePerId(Generic[R, T]):
    """One table of ids; belongs to one event loop. ``worth_keeping`` says which results a later caller may have."""

    def __init__(
        self,
        worth_keeping: Callable[[R, T], bool],
        keeping: Keeping | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._worth_keeping, self._keeping, self._clock = worth_keeping, keeping or Keeping(), clock
        self._running: dict[str, _Running[R, T]] = {}
        self._kept: dict[str, _Kept[R, T]] = {}  # in the order in which they ended, and so in that of ``until``

    async def run(self, key: str, request: R, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of ``work`` for ``request``; ConflictError if ``key`` stands for another request."""
        self._forget_old()
        known = self._running.get(key) or self._kept.get(key)
        if known and known.request != request:
            raise ConflictError(
                f"{key!r} is the id of another request",
                "give every rollout an id of its own; the same id asks for the same rollout again",
            )
        if isinstance(known, _Kept):
            return known.result
        return await self._joined(key, known or self._started(key, request, work))

    def _started(self, key: str, request: R, work: Callable[[], Coroutine[Any, Any, T]]) -> _Running[R, T]:
        running = _Running(request, asyncio.ensure_future(work()))
        self._running[key] = running
        running.task.add_done_callback(lambda task: self._ended(key, running))
        return running

    async def _joined(self, key: str, running: _Running[R, T]) -> T:
        running.callers += 1
        if running.giving_up:
            running.giving_up.cancel()
            running.giving_up = None
        try:
            return await asyncio.shield(running.task)
        finally:
            running.callers -= 1
            if not running.callers and not running.task.done():
                crowded = sum(not one.callers for one in self._running.values()) > self._keeping.abandoned
                delay_s = 0.0 if crowded else self._keeping.abandoned_s
                running.giving_up = asyncio.get_running_loop().call_later(delay_s, self._give_up, key, running)

    def _give_up(self, key: str, running: _Running[R, T]) -> None:
        self._remove(key, running)  # At once: who comes now must not join what is being cancelled.
        running.task.cancel()

    def _ended(self, key: str, running: _Running[R, T]) -> None:
        self._remove(key, running)
        if running.task.cancelled() or running.task.exception():
            return
        result = running.task.result()
        if self._worth_keeping(running.request, result):
            self._kept[key] = _Kept(running.request, result, self._clock() + self._keeping.result_s)
            self._forget_old()

    def _remove(self, key: str, running: _Running[R, T]) -> None:
        if self._running.get(key) is running:
            del self._running[key]

    def _forget_old(self) -> None:
        now = self._clock()
        while self._kept:
            oldest = next(iter(self._kept))
            if len(self._kept) <= self._keeping.results and self._kept[oldest].until > now:
                break
            del self._kept[oldest]
