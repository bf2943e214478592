"""The gateway's core: a chat completion request in, a finished completion out. Knows nothing about HTTP or Ray."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from serve.call_batcher import Answer
from serve.openai.answer import Completion, completion
from serve.openai.errors import BadRequest
from serve.openai.request import ChatCall, chat_call
from serve.served_models import ModelCard, Served, ServedModels
from synth_ray.core.errors import AdapterMissing, DeadlineError, PolicyError, SynthRayError
from synth_ray.core.hashing import derived_seed
from synth_ray.core.paths import Home
from synth_ray.core.types import GenerateRequest, GenerateResult
from synth_ray.runtime.adapters import AdapterBlob
from synth_ray.runtime.devices import EngineSpec

TIMEOUT_S = 600.0
_SPEC_AGE_S = 5.0


class EngineLink(Protocol):
    """How the gateway reaches the engine and the adapter store."""

    async def generate(self, requests: Sequence[GenerateRequest]) -> Sequence[Answer]:
        """A reply or an error to each request."""
        ...

    async def spec(self) -> EngineSpec:
        """How the engine was started. Raises PrerequisiteError if none runs."""
        ...

    async def publish(self, blob: AdapterBlob) -> None:
        """Puts an adapter where the engine fetches it from."""
        ...


class Gateway:
    """Serves every model of one home through one engine."""

    def __init__(self, home: Home, engine: EngineLink, timeout_s: float = TIMEOUT_S) -> None:
        self._engine, self._timeout_s = engine, timeout_s
        self._models = ServedModels(home, engine.publish)
        self._spec: EngineSpec | None = None
        self._spec_at = 0.0

    async def models(self) -> list[ModelCard]:
        """Everything that can be asked for; without an engine there is nothing."""
        return await self._models.cards((await self._engine_spec()).model_dir)

    async def model(self, name: str) -> ModelCard:
        """One model by name. Raises ModelNotFound."""
        return await self._models.card(name, (await self._engine_spec()).model_dir)

    async def complete(self, body: Any) -> Completion:
        """The completion that a JSON body asks for.

        Raises BadRequest, ModelNotFound, DeadlineError, or what the engine says; all before a first byte is sent.
        """
        call = chat_call(body)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._complete(call)
        except TimeoutError:
            raise DeadlineError(f"the model did not answer within {self._timeout_s:.0f} s") from None

    async def _complete(self, call: ChatCall) -> Completion:
        spec = await self._engine_spec()
        served = await self._models.get(call.model, spec.model_dir)
        prompt_ids = await asyncio.to_thread(_prompt_ids, served, call)
        requests = _requests(call, served, prompt_ids, spec.options.max_model_len)
        answers = await self._engine.generate(requests)
        if any(isinstance(answer, AdapterMissing) for answer in answers):
            await self._models.publish_again(served)
            answers = await self._engine.generate(requests)
        return await asyncio.to_thread(
            completion, call, served.chat, prompt_ids, list(map(_result, answers)), int(time.time())
        )

    async def _engine_spec(self) -> EngineSpec:
        if self._spec is None or time.monotonic() - self._spec_at > _SPEC_AGE_S:
            self._spec = await self._engine.spec()
            self._spec_at = time.monotonic()
        return self._spec


def _prompt_ids(served: Served, call: ChatCall) -> tuple[int, ...]:
    try:
        return served.chat.prompt_ids(call.messages, call.tools, call.thinking)
    except SynthRayError:
        raise
    except Exception as error:  # Templates raise what they like for roles and orders that they don't know.
        raise BadRequest(f"the model's chat template refuses these messages: {error}", "messages") from None


def _requests(call: ChatCall, served: Served, prompt_ids: tuple[int, ...], max_len: int) -> list[GenerateRequest]:
    """One request per choice; a given seed is that of the first, the others' derive from it."""
    room = max_len - len(prompt_ids)
    if room < 1:
        raise BadRequest(
            f"the messages are {len(prompt_ids)} tokens long, and the engine takes {max_len} with the reply",
            "messages",
            "context_length_exceeded",
            "send less, or deploy with a larger vllm.max_model_len",
        )
    sampling = replace(call.sampling, max_tokens=min(call.max_tokens or room, room))
    name, seed = f"gateway-{secrets.token_hex(8)}", sampling.seed
    seeds = [seed if seed is None or index == 0 else derived_seed(seed, index) for index in range(call.n)]
    return [
        GenerateRequest(f"{name}-{index}", prompt_ids, served.weights, replace(sampling, seed=one))
        for index, one in enumerate(seeds)
    ]


def _result(answer: Answer) -> GenerateResult:
    if isinstance(answer, AdapterMissing):
        raise PolicyError(answer.message, answer.hint)
    if isinstance(answer, SynthRayError):
        raise answer
    return answer
