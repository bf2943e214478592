"""Waiting: every wait has a name and a deadline, and says who did not answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from synth_ray.core.errors import DeadlineError

T = TypeVar("T")


def wait_for(
    name: str,
    probe: Callable[[], T | None],
    timeout_s: float,
    interval_s: float = 0.2,
    hint: str = "",
    tick: Callable[[float], None] | None = None,
) -> T:
    """Calls ``probe`` until it returns something other than None; raises DeadlineError naming ``name``.

    ``tick`` is called with the seconds waited so far, after each fruitless probe.
    """
    start = time.monotonic()
    while True:
        result = probe()
        if result is not None:
            return result
        waited_s = time.monotonic() - start
        if waited_s >= timeout_s:
            raise DeadlineError(f"{name} did not answer within {timeout_s:.0f} s", hint)
        if tick:
            tick(waited_s)
        time.sleep(min(interval_s, max(0.0, timeout_s - waited_s)))
