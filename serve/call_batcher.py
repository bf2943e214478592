"""Calls that travel together: requests of the same moment share one remote call.

A remote call costs milliseconds, which a small model's reply does not outweigh. The price is that a short reply waits
for the longest of its companions, so how many may travel together is the caller's choice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from synth_ray.core.errors import SynthRayError
from synth_ray.core.types import GenerateRequest, GenerateResult
from synth_ray.runtime.remote import local_error

Answer = GenerateResult | SynthRayError
SendMany = Callable[[Sequence[GenerateRequest]], Awaitable[Sequence[Answer]]]
_Waiting = tuple[GenerateRequest, "asyncio.Future[Answer]"]


class CallBatcher:
    """``send_many`` answers requests in their order; at most ``limit`` go with one call."""

    def __init__(self, send_many: SendMany, limit: int) -> None:
        self._send_many, self._limit = send_many, limit
        self._waiting: list[_Waiting] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, request: GenerateRequest) -> GenerateResult:
        """The answer to one request; raises its own error, never a companion's."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._flush)
        future: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((request, future))
        answer = await future
        if isinstance(answer, SynthRayError):
            raise answer
        return answer

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for begin in range(0, len(waiting), self._limit):
            task = asyncio.ensure_future(self._send(waiting[begin : begin + self._limit]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _send(self, together: list[_Waiting]) -> None:
        try:
            answers = await self._send_many([request for request, _ in together])
        except Exception as error:  # Whatever it is, every caller has to hear of it.
            answers = [local_error(error)] * len(together)
        for (_, future), answer in zip(together, answers, strict=True):
            if not future.done():
                future.set_result(answer)
