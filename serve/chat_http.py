"""`/v1`: OpenAI's API over the gateway."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response, StreamingResponse

from serve.gateway import Gateway
from serve.http_errors import responses
from serve.http_json import AsciiJson
from serve.http_keys import keyed
from serve.openai.answer import events, whole
from serve.openai.errors import BadRequest
from serve.served_models import ModelCard

OWNER = "synth-ray"


def chat_router(gateway: Gateway) -> APIRouter:
    """`GET /v1/models`, `GET /v1/models/NAME`, `POST /v1/chat/completions`; mount it behind the guard."""
    router = APIRouter(prefix="/v1", tags=["openai"], dependencies=[Depends(keyed)])

    @router.get("/models", responses=responses(503))
    async def models() -> AsciiJson:
        """Every model that can be asked for."""
        return AsciiJson({"object": "list", "data": [_card(card) for card in await gateway.models()]})

    @router.get("/models/{name:path}", responses=responses(404, 503))
    async def model(name: str) -> AsciiJson:
        """One model."""
        return AsciiJson(_card(await gateway.model(name)))

    @router.post("/chat/completions", responses=responses(404, 502, 503, 504, body=True))
    async def chat_completions(request: Request) -> Response:
        """One completion, whole or streamed."""
        done = await gateway.complete(_json(await request.body()))
        if not done.call.stream:
            return AsciiJson(whole(done))
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(events(done), media_type="text/event-stream", headers=headers)

    return router


def _card(card: ModelCard) -> dict[str, Any]:
    ours = {"kind": card.kind, "digest": card.digest, "job_id": card.job_id}
    shown = {"id": card.id, "object": "model", "created": card.created, "owned_by": OWNER}
    return {**shown, "root": card.id, "parent": card.parent, "synth_ray": ours}


def _json(body: bytes) -> Any:
    try:
        return json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise BadRequest("the body is not JSON", code="invalid_json") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
