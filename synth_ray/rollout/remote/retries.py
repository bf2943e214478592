"""Trying again: bounded in attempts and in seconds, with exponential waits, full jitter and respect for Retry-After."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TypeVar

from synth_ray.core.errors import EndpointUnavailable

T = TypeVar("T")
_RANDOM = random.SystemRandom()


class TryAgain(Exception):
    """One attempt failed in a way that may pass. ``after_s`` is how long the other side asks to wait, if it does."""

    def __init__(self, reason: str, after_s: float | None = None, status: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.after_s, self.status = reason, after_s, status


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """How often and how long. The n-th wait is random, at most ``first_wait_s`` * 2**(n-1) and ``longest_wait_s``."""

    attempts: int = 8
    seconds: float = 600.0
    first_wait_s: float = 1.0
    longest_wait_s: float = 30.0

    def longest_wait(self, failures: int) -> float:
        """Upper bound of the random wait after so many failures, in seconds."""
        return min(self.longest_wait_s, self.first_wait_s * 2.0 ** min(failures - 1, 30))


@dataclass(frozen=True, slots=True)
class Waiter:
    """Clock, sleep and chance of ``retried``; tests put in their own."""

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    uniform: Callable[[float, float], float] = _RANDOM.uniform


REAL_TIME = Waiter()


async def retried(
    attempt: Callable[[float], Awaitable[T]], budget: RetryBudget, place: str, waiter: Waiter = REAL_TIME
) -> T:
    """The first result of ``attempt``, which gets the seconds that are left and raises TryAgain to be tried again.

    Raises EndpointUnavailable, naming ``place``, when attempts or seconds are used up, and at once when the other side
    asks for a longer wait than is left.
    """
    deadline = waiter.clock() + budget.seconds
    for number in range(1, budget.attempts + 1):
        try:
            return await attempt(deadline - waiter.clock())
        except TryAgain as failure:
            left_s = deadline - waiter.clock()
            if number == budget.attempts or left_s <= 0:
                raise _gave_up(place, failure, f"gave up after {_times(number)}") from None
            asked_s = failure.after_s or 0.0
            if asked_s >= left_s:
                asks = f"asks to wait {asked_s:.0f} s, but only {left_s:.0f} s are left"
                raise _gave_up(place, failure, asks) from None
            wait_s = asked_s + waiter.uniform(0.0, budget.longest_wait(number))
        await waiter.sleep(min(wait_s, left_s))
    raise AssertionError("unreachable")


def parse_retry_after(text: str | None, now: float) -> float | None:
    """Seconds to wait that a Retry-After header names, as a number or an HTTP date; None if it is absent or nonsense.

    ``now`` is the wall clock, in seconds since the epoch.
    """
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        return _until(text, now)
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _until(date: str, now: float) -> float | None:
    try:
        moment = parsedate_to_datetime(date)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, aware.timestamp() - now)


def _gave_up(place: str, failure: TryAgain, why: str) -> EndpointUnavailable:
    return EndpointUnavailable(f"{place} {failure.reason}; {why}", "try again later", status=failure.status)


def _times(number: int) -> str:
    return "1 attempt" if number == 1 else f"{number} attempts"
