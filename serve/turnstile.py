"""Short work that comes in crowds, one piece per round of the event loop.

Reading a request and writing an answer take a millisecond or more each. Rollouts that start together also end together:
done in one round of the loop, their answers would hold up the turns of all others by as many milliseconds.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Turnstile:
    """Lets one in per round of the event loop, in the order of arrival."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Returns in a round in which nobody else is let in."""
        loop = asyncio.get_running_loop()
        gate: asyncio.Future[None] = loop.create_future()
        self._waiting.append(gate)
        if len(self._waiting) == 1:
            loop.call_soon(self._let_in, loop)
        await gate

    def _let_in(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._waiting:
            gate = self._waiting.popleft()
            if not gate.done():  # Else it was cancelled.
                gate.set_result(None)
                break
        if self._waiting:
            loop.call_soon(self._let_in, loop)
