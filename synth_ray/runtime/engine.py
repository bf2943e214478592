"""vLLM, wrapped: a request names its base and its adapter, the answer says which ones sampled it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from synth_ray.core.errors import PolicyError, PrerequisiteError, WrongWeights
from synth_ray.core.types import GenerateRequest, GenerateResult
from synth_ray.learn.model_files import architecture_of, base_digest
from synth_ray.learn.model_source import local_model
from synth_ray.runtime.adapter_cache import AdapterCache, HeldAdapter
from synth_ray.runtime.adapters import AdapterBlob
from synth_ray.runtime.base_gate import BaseGate
from synth_ray.runtime.devices import EngineSpec, check_build

_SHUTDOWN_TIMEOUT_S = 5.0
log = logging.getLogger(__name__)


class Engine:
    """One vLLM engine. Another base of the same architecture is loaded in place, any other restarts the engine core.

    A model with tied embeddings restarts it too: on CPU vLLM keeps a packed copy of the output layer, which its
    in-place reload leaves stale without an error.
    """

    def __init__(self, spec: EngineSpec, fetch_adapter: Callable[[str], Awaitable[AdapterBlob]]) -> None:
        self._spec = spec
        self._gate = BaseGate(self._switch_base)
        self._adapters = AdapterCache(fetch_adapter, self._load_adapter, self._unload_adapter)
        self._llm: Any = None
        self._architecture: dict[str, Any] = {}
        self._unusable: dict[str, PrerequisiteError] = {}
        self.served = 0

    @property
    def base(self) -> str:
        """Digest of the loaded base; empty while none is."""
        return self._gate.current

    @property
    def dead(self) -> bool:
        """Whether the engine core is gone for good."""
        return self._llm is not None and bool(self._llm.errored)

    async def start(self) -> None:
        """Loads the base of the spec."""
        digest = await asyncio.to_thread(_digest, self._spec.model_dir)
        async with self._gate.hold(digest, self._spec.model_dir):
            pass

    async def generate(self, request: GenerateRequest) -> GenerateResult:
        """Samples one reply. Raises WrongWeights, AdapterMissing, or PolicyError if the engine failed."""
        weights = request.weights
        async with self._gate.hold(weights.base_digest, weights.base_dir):
            if not weights.adapter:
                return await self._sample(request, None)
            async with self._adapters.hold(weights) as held:
                return await self._sample(request, held)

    async def check(self) -> None:
        """Raises if the engine core is dead."""
        if self._llm is not None:
            await self._llm.check_health()

    def close(self) -> None:
        """Stops the engine core and removes the adapters' folders."""
        if self._llm is not None:
            self._llm.shutdown(timeout=_SHUTDOWN_TIMEOUT_S)
            self._llm = None
        self._adapters.close()

    async def _switch_base(self, digest: str, model_dir: str) -> None:
        found = await asyncio.to_thread(_digest, model_dir)
        if found != digest:
            raise WrongWeights(f"the model in {model_dir} has digest {found[:12]}, the request names {digest[:12]}")
        architecture = architecture_of(local_model(model_dir))
        if self._llm is not None and architecture == self._architecture and not architecture["tie_word_embeddings"]:
            await self._reload(model_dir)
            return
        if self._llm is not None:
            await self._adapters.clear(unload=False)
            self._llm.shutdown(timeout=_SHUTDOWN_TIMEOUT_S)
            self._llm = None
        if digest in self._unusable:
            raise self._unusable[digest]
        try:
            # In a thread, so that health checks are answered while the engine core starts.
            self._llm = await asyncio.to_thread(_start_vllm, self._spec, model_dir)
        except Exception as error:
            log.exception("vLLM did not start")
            self._unusable[digest] = PrerequisiteError(
                f"the engine could not start with {model_dir}: {_first_line(error)}",
                "check the model folder and the [vllm] section; details are in the policy replica's log",
            )
            raise self._unusable[digest] from None
        self._architecture = architecture

    async def _reload(self, model_dir: str) -> None:
        await self._adapters.clear(unload=True)
        await self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(local_model(model_dir))})
        if not await self._llm.reset_prefix_cache():
            raise PolicyError("the engine kept the prefix cache of the base that it held before")

    async def _load_adapter(self, held: HeldAdapter) -> None:
        if not await self._llm.add_lora(_lora_request(held)):
            raise PolicyError(f"the engine refused adapter {held.name}")

    async def _unload_adapter(self, engine_id: int) -> None:
        await self._llm.remove_lora(engine_id)

    async def _sample(self, request: GenerateRequest, held: HeldAdapter | None) -> GenerateResult:
        final: Any = None
        try:
            async for output in self._llm.generate(
                {"prompt_token_ids": list(request.prompt_ids)},
                _sampling_params(request),
                request_id=request.request_id,
                lora_request=_lora_request(held) if held else None,
            ):
                final = output
        except ValueError as error:
            raise PolicyError(f"the engine refused the request: {error}") from None
        if final is None:
            raise PolicyError("the engine answered nothing")
        self.served += 1
        reply = final.outputs[0]
        ids = tuple(reply.token_ids)
        return GenerateResult(
            token_ids=ids,
            logprobs=tuple(place[token].logprob for token, place in zip(ids, reply.logprobs, strict=True)),
            finish_reason=str(reply.finish_reason),
            weights_name=held.name if held else "base",
            weights_digest=held.digest if held else self._gate.current,
            cached_tokens=final.num_cached_tokens or 0,
            top_logprobs=_likeliest(reply.logprobs, request.sampling.top_logprobs),
        )


def _likeliest(places: Any, count: int) -> tuple[tuple[tuple[int, float], ...], ...]:
    """The ``count`` best of each place; vLLM adds the sampled token to them if it is not among them."""
    if not count:
        return ()
    ranked = (sorted(place.items(), key=lambda item: -item[1].logprob)[:count] for place in places)
    return tuple(tuple((token, found.logprob) for token, found in place) for place in ranked)


def _start_vllm(spec: EngineSpec, model_dir: str) -> Any:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.async_llm import AsyncLLM

    check_build(spec.device, current_platform.device_type)
    return AsyncLLM.from_engine_args(AsyncEngineArgs(**spec.engine_args(str(local_model(model_dir)))))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else type(error).__name__)


def _digest(source: str) -> str:
    return base_digest(local_model(source))


def _lora_request(held: HeldAdapter) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest(lora_name=held.name, lora_int_id=held.engine_id, lora_path=str(held.folder))


def _sampling_params(request: GenerateRequest) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    sampling = request.sampling
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_tokens=sampling.max_tokens,
        seed=sampling.seed,
        logprobs=sampling.top_logprobs,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
