"""What keeps a judge from costing too much: a budget of calls and seconds, and a breaker for one that keeps failing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class CallBudget:
    """At most ``calls``, and ``seconds`` in which at least one of them is in flight."""

    def __init__(self, calls: int, seconds: float, clock: Callable[[], float]) -> None:
        self._calls_left, self._seconds_left, self._clock = calls, seconds, clock
        self._in_flight, self._since = 0, 0.0

    @property
    def seconds_left(self) -> float:
        """May be below 0."""
        running_s = self._clock() - self._since if self._in_flight else 0.0
        return self._seconds_left - running_s

    @property
    def used_up(self) -> str:
        """Which part of the budget is used up; empty if neither."""
        if self._calls_left <= 0:
            return "all calls of the budget (max_calls) are made"
        return "" if self.seconds_left > 0 else "all seconds of the budget (max_seconds) are used"

    @contextmanager
    def call(self) -> Iterator[None]:
        """Counts one call while it is in flight."""
        self._calls_left -= 1
        if self._in_flight == 0:
            self._since = self._clock()
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1
            if self._in_flight == 0:
                self._seconds_left -= self._clock() - self._since


class Breaker:
    """Open after ``limit`` failures in a row, until something succeeds; one trial per ``cooldown_s`` finds that out."""

    def __init__(self, limit: int, cooldown_s: float, clock: Callable[[], float]) -> None:
        self._limit, self._cooldown_s, self._clock = limit, cooldown_s, clock
        self._failures, self._quiet_until = 0, 0.0

    def lets_through(self) -> bool:
        """Whether the next call may be made; a trial that is let through keeps the others waiting for its end."""
        if self._failures < self._limit:
            return True
        now = self._clock()
        if now < self._quiet_until:
            return False
        self._quiet_until = now + self._cooldown_s
        return True

    def succeeded(self) -> None:
        """Closes the breaker."""
        self._failures = 0

    def failed(self) -> None:
        """One more failure in a row."""
        self._failures += 1
        self._quiet_until = self._clock() + self._cooldown_s
