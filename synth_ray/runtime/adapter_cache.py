"""The adapters that one engine holds: fetched on first use, verified, loaded under a new id and a new folder each.

Invariants: a folder outlives every request that uses it, since the engine may read it again at any time; an engine id
is never used twice, so the engine's prefix cache can't mix versions.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synth_ray.core.errors import WrongWeights
from synth_ray.core.types import Weights
from synth_ray.runtime.adapters import KEEP_VERSIONS, AdapterBlob
from synth_ray.runtime.scratch import new_scratch

# Clear of the small ids that vLLM's own OpenAI server would give out.
_FIRST_ID = 1_000_000


@dataclass
class HeldAdapter:
    """One adapter inside the engine; ``digest`` is that of the bytes that were loaded."""

    name: str
    digest: str
    engine_id: int
    folder: Path
    users: int = 0


class AdapterCache:
    """``fetch`` gets a blob by name; ``load`` and ``unload`` put it into the engine and take it out."""

    def __init__(
        self,
        fetch: Callable[[str], Awaitable[AdapterBlob]],
        load: Callable[[HeldAdapter], Awaitable[None]],
        unload: Callable[[int], Awaitable[None]],
    ) -> None:
        self._fetch, self._load, self._unload = fetch, load, unload
        self._held: dict[str, HeldAdapter] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._next_id = _FIRST_ID
        self._root = new_scratch()

    @asynccontextmanager
    async def hold(self, weights: Weights) -> AsyncIterator[HeldAdapter]:
        """The adapter while a request uses it; WrongWeights if its digest is not the one that the request names."""
        async with self._locks.setdefault(weights.adapter, asyncio.Lock()):
            held = self._held.get(weights.adapter)
            if held is None:
                held = self._held[weights.adapter] = await self._bring(weights)
            if held.digest != weights.adapter_digest:
                raise WrongWeights(f"adapter {weights.adapter} is loaded with another digest than the request names")
            held.users += 1
        try:
            yield held
        finally:
            held.users -= 1
            await self._drop_old()

    async def clear(self, unload: bool) -> None:
        """Forgets everything, for an engine that is about to go (``unload`` False) or stays (True)."""
        for name in list(self._held):
            await self._drop(name, unload)

    def close(self) -> None:
        """Removes every folder."""
        shutil.rmtree(self._root, ignore_errors=True)

    async def _bring(self, weights: Weights) -> HeldAdapter:
        blob = await self._fetch(weights.adapter)
        blob.verify()
        if blob.digest != weights.adapter_digest:
            raise WrongWeights(f"adapter {weights.adapter} is published with another digest than the request names")
        self._next_id += 1
        held = HeldAdapter(blob.name, blob.digest, self._next_id, self._root / str(self._next_id))
        try:
            _write(held.folder, blob.config, blob.data)
            await self._load(held)
        except BaseException:
            shutil.rmtree(held.folder, ignore_errors=True)
            raise
        return held

    async def _drop_old(self) -> None:
        for name in list(self._held):
            held = self._held.get(name)
            # Looked at anew each time: another request may have come while the last one was unloaded.
            if held and not held.users and len(self._held) > KEEP_VERSIONS:
                await self._drop(name, unload=True)

    async def _drop(self, name: str, unload: bool) -> None:
        held = self._held.pop(name, None)
        if held is None:
            return
        self._locks.pop(name, None)
        if unload:
            await self._unload(held.engine_id)
        shutil.rmtree(held.folder, ignore_errors=True)


def _write(folder: Path, config: Any, data: bytes) -> None:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(dict(config)))
    (folder / "adapter_model.safetensors").write_bytes(data)
