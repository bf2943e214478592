"""Work for a client, for as long as the client is there.

Ray Serve cancels a handler whose client has gone; uvicorn only says so to who asks for the next message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
Receive = Callable[[], Awaitable[Mapping[str, Any]]]


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


async def while_connected(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """The result of ``work``, which is cancelled when the client goes away: ClientGone then.

    ``receive`` is the request's (ASGI), its body read already.
    """
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        gone.result()  # An error of the server's, if there was one.
        raise ClientGone
    finally:
        working.cancel()
        gone.cancel()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
