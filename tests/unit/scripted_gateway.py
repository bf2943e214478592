"""The gateway's app with a base and an adapter to serve, in front of an engine that says what it is told to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastapi import FastAPI

from serve.backend.service import Backend
from serve.call_batcher import Answer
from serve.gateway import Gateway
from serve.gateway_http import create_app
from serve.models import built_in
from synth_ray.core.errors import AdapterMissing, PrerequisiteError, SynthRayError
from synth_ray.core.hashing import sha256_bytes
from synth_ray.core.paths import Home
from synth_ray.core.secrets import KeyRing
from synth_ray.core.sections import VLLM
from synth_ray.core.types import GenerateRequest, GenerateResult
from synth_ray.learn.adapter_files import write_adapter
from synth_ray.learn.model_files import base_digest
from synth_ray.records.registry import Model, Registry
from synth_ray.rollout.chat import load_chat
from synth_ray.runtime.adapters import AdapterBlob
from synth_ray.runtime.devices import EngineSpec

KEY = "the-key-of-this-gateway"
MODEL, RL = "crafter-tiny", "rl:crafter-tiny:job_b"
ADAPTER = b"adapter bytes"
REPLY = '{"actions": ["move_left", "do"]}'
MAX_LEN = 64


class ScriptedEngine:
    """Answers every request with ``reply``, and keeps what it was asked."""

    def __init__(self, model_dir: Path) -> None:
        self.chat = load_chat(str(model_dir))
        self._spec = EngineSpec(str(model_dir), "cpu", 0, VLLM(max_model_len=MAX_LEN))
        self.reply: str | SynthRayError = REPLY
        self.missing = 0
        self.asked: list[GenerateRequest] = []
        self.published: list[AdapterBlob] = []
        self.runs = True

    async def spec(self) -> EngineSpec:
        if not self.runs:
            raise PrerequisiteError("no engine is running", "deploy one")
        return self._spec

    async def publish(self, blob: AdapterBlob) -> None:
        self.published.append(blob)

    async def generate(self, requests: Sequence[GenerateRequest]) -> Sequence[Answer]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: GenerateRequest) -> Answer:
        self.asked.append(request)
        if self.missing:
            self.missing -= 1
            return AdapterMissing("it is not in the store")
        if isinstance(self.reply, SynthRayError):
            return self.reply
        ids = self.chat.reply_ids(self.reply)
        likeliest = tuple((token, -0.5) for token in range(request.sampling.top_logprobs))
        return GenerateResult(
            token_ids=ids,
            logprobs=tuple(-0.25 * (place + 1) for place in range(len(ids))),
            finish_reason="stop",
            weights_name=request.weights.name,
            weights_digest=request.weights.digest,
            top_logprobs=(likeliest,) * len(ids) if likeliest else (),
        )


class NoJobs:
    """Starts nothing."""

    def submit(self, kind: str, config: Path, job_id: str) -> None:
        raise AssertionError("no job is submitted here")

    stop = submit


def gateway_home(root: Path) -> Home:
    """A built-in base, and an adapter that a job has made from it."""
    home = Home(root, root)
    base, adapter = built_in(MODEL, home), root / "adapter"
    write_adapter(adapter, ADAPTER, {"r": 8})
    about = {"base_digest": base_digest(base)}
    digest = sha256_bytes(ADAPTER)
    with Registry(home.state_db) as registry:
        registry.add_model(Model(RL, MODEL, "adapter", str(adapter), digest, "job_b", str(base), metrics=about))
    return home


def gateway_app(home: Home, engine: ScriptedEngine) -> FastAPI:
    """The app that serves the models of ``home`` to whoever has ``KEY``."""
    return create_app(Gateway(home, engine), Backend(home, NoJobs(), list), KeyRing([KEY]))
