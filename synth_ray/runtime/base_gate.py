"""One base model at a time: requests for the loaded base run together, a request for another one drains and switches.

Invariants: no request ever runs on a base other than the one it names; requests enter in the order in which they came.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager


class BaseGate:
    """``switch`` is called with the new digest while nothing is in flight; if it raises, no base is loaded."""

    def __init__(self, switch: Callable[[str, str], Awaitable[None]]) -> None:
        self._switch = switch
        self._turnstile = asyncio.Lock()
        self._idle = asyncio.Event()
        self._idle.set()
        self._active = 0
        self.current = ""

    @asynccontextmanager
    async def hold(self, digest: str, model_dir: str) -> AsyncIterator[None]:
        """Holds the base ``digest``, loading it from ``model_dir`` first if another one is loaded."""
        async with self._turnstile:
            if digest != self.current:
                await self._idle.wait()
                self.current = ""
                await self._switch(digest, model_dir)
                self.current = digest
            self._active += 1
            self._idle.clear()
        try:
            yield
        finally:
            self._active -= 1
            if not self._active:
                self._idle.set()
