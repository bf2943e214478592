"""Which models the gateway serves, and the exact weights behind their names.

Names are those of the registry and of the built-in models, of the hub models that registered ones were made from, and
of what the engine was started with. Nothing else: a client can't make this machine read a folder or fetch a model.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from serve.models import BUILT_IN, Resolved, resolve
from serve.openai.errors import ModelNotFound
from synth_ray.core.config import did_you_mean
from synth_ray.core.paths import Home
from synth_ray.core.types import Weights
from synth_ray.learn.model_source import is_hub_id, local_model
from synth_ray.records.registry import Registry
from synth_ray.rollout.chat import Chat, load_chat
from synth_ray.runtime.adapters import AdapterBlob

Publish = Callable[[AdapterBlob], Awaitable[None]]

_LISTED = 10_000
_REMEMBERED = 64


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What `GET /v1/models` says of a model. ``ref`` is what it is resolved by, ``created`` Unix time or 0."""

    id: str
    ref: str
    kind: str = "full"
    parent: str | None = None
    digest: str = ""
    job_id: str = ""
    created: int = 0


@dataclass(frozen=True, slots=True)
class Served:
    """A model ready to be asked: its weights, and the chat template and tokenizer of its base."""

    card: ModelCard
    weights: Weights
    chat: Chat


class ServedModels:
    """The models of one home. ``publish`` brings an adapter to where the engine finds it."""

    def __init__(self, home: Home, publish: Publish) -> None:
        self._home, self._publish = home, publish
        self._known: OrderedDict[str, Served] = OrderedDict()
        self._lock = asyncio.Lock()

    async def cards(self, engine_model: str) -> list[ModelCard]:
        """Everything that can be asked for, newest registered first. ``engine_model`` is what the engine began with."""
        return await asyncio.to_thread(self._cards, engine_model)

    async def card(self, name: str, engine_model: str) -> ModelCard:
        """The model of that name. Raises ModelNotFound with a suggestion."""
        cards = {card.id: card for card in await self.cards(engine_model)}
        if name not in cards:
            raise ModelNotFound(name, did_you_mean(name, list(cards)[:_REMEMBERED]))
        return cards[name]

    async def get(self, name: str, engine_model: str) -> Served:
        """The model of that name; on first use its files are verified and its adapter is published."""
        if name not in self._known:
            async with self._lock:  # Verifying reads the whole model: once is enough.
                if name not in self._known:
                    self._known[name] = await self._load(await self.card(name, engine_model))
        self._known.move_to_end(name)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return self._known[name]

    async def publish_again(self, served: Served) -> None:
        """Brings the adapter once more: the store may have lost it."""
        await self._load(served.card)

    async def _load(self, card: ModelCard) -> Served:
        resolved = await asyncio.to_thread(self._resolve, card.ref)
        if resolved.adapter is not None:
            await self._publish(resolved.adapter)
        chat = await asyncio.to_thread(load_chat, str(local_model(resolved.weights.base_dir)))
        return Served(card, resolved.weights, chat)

    def _resolve(self, ref: str) -> Resolved:
        with Registry(self._home.state_db) as registry:
            return resolve(ref, self._home, registry)

    def _cards(self, engine_model: str) -> list[ModelCard]:
        with Registry(self._home.state_db) as registry:
            models = registry.models(_LISTED)
        cards = [
            ModelCard(one.model_id, one.model_id, one.kind, one.base, one.digest, one.job_id, _unix(one.created_at))
            for one in models
        ]
        bases = dict.fromkeys(one.base for one in models if is_hub_id(one.base))
        cards += [ModelCard(name, name) for name in (*BUILT_IN, *bases)]
        known = {*(one.path for one in models), *(str(self._home.models / name) for name in BUILT_IN), *bases}
        if engine_model and engine_model not in known:
            cards.append(ModelCard(engine_model if is_hub_id(engine_model) else Path(engine_model).name, engine_model))
        return cards


def _unix(text: str) -> int:
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except ValueError:
        return 0
