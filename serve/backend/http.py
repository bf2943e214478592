"""`/api` and `/api/v1`: the routes that synth-ai 0.2's `train` and `status` call, over the backend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, File, Form, Header, Query, UploadFile
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from serve.backend.configs import RLJobBody, SFTJobBody
from serve.backend.service import Backend
from serve.backend.stream import TYPES, job_stream, parse_place
from serve.backend.views import ENDS, file_view, job_view
from serve.http_errors import TooManyError, responses
from serve.http_keys import keyed
from synth_ray.core.errors import ConfigError

MAX_STREAMS = 64
POLL_S = 0.5
LIFETIME_S = 3600.0
Json = dict[str, Any]

_Limit = Annotated[int, Query(ge=1, le=1000)]
_Key = Annotated[str, Header(alias="Idempotency-Key", max_length=256)]
_Text = Annotated[str, Query(max_length=64)]
_Purpose = Annotated[str, Form(max_length=32)]


class VerifyBody(BaseModel):
    """The body of `POST /rl/verify_task_app`."""

    endpoint_base_url: str = Field(max_length=2048)


def backend_router(backend: Backend) -> APIRouter:
    """Every route, once below each prefix; mount it behind the guard."""
    router = APIRouter(tags=["backend"], dependencies=[Depends(keyed)])
    inner = APIRouter()
    _job_routes(inner, backend)
    _feed_routes(inner, backend)
    _record_routes(inner, backend)
    for prefix in ("/api", "/api/v1"):
        router.include_router(inner, prefix=prefix)
    return router


def _job_routes(router: APIRouter, backend: Backend) -> None:
    @router.post("/rl/verify_task_app", responses=responses(body=True))
    def verify(body: VerifyBody) -> Json:
        """Whether a URL is a running task app of this cluster."""
        return backend.verify_task_app(body.endpoint_base_url)

    @router.post("/rl/jobs", status_code=201, responses=responses(404, 409, 503, body=True))
    def create_rl(body: RLJobBody, idempotency_key: _Key = "") -> Json:
        """Starts RL."""
        return job_view(backend.create_rl(body, idempotency_key))

    @router.post("/learning/jobs", status_code=201, responses=responses(404, 409, 503, body=True))
    def create_sft(body: SFTJobBody, idempotency_key: _Key = "") -> Json:
        """Starts fine-tuning."""
        return job_view(backend.create_sft(body, idempotency_key))

    @router.post("/learning/jobs/{job_id}/start", responses=responses(404, body=True))
    def start(job_id: str) -> Json:
        """A job starts when it is created; this says where it stands."""
        return job_view(backend.job(job_id))

    @router.post("/rl/jobs/{job_id}/cancel", responses=responses(404, 503, body=True))
    @router.post("/learning/jobs/{job_id}/cancel", responses=responses(404, 503, body=True))
    def cancel(job_id: str) -> Json:
        """Asks a job to stop."""
        return backend.cancel(job_id)

    @router.get("/rl/jobs", responses=responses())
    @router.get("/learning/jobs", responses=responses())
    def jobs(limit: _Limit = 20, status: _Text = "", type: _Text = "", created_after: _Text = "") -> Json:
        """The newest training jobs first."""
        return {"jobs": backend.jobs(limit, status, type, _time(created_after))}

    @router.get("/rl/jobs/{job_id}", responses=responses(404))
    @router.get("/learning/jobs/{job_id}", responses=responses(404))
    @router.get("/learning/jobs/{job_id}/status", responses=responses(404))
    def job(job_id: str) -> Json:
        """One job."""
        return job_view(backend.job(job_id))

    @router.get("/learning/jobs/{job_id}/config", responses=responses(404))
    def config(job_id: str) -> Json:
        """A job's configuration."""
        return backend.config(job_id)

    @router.get("/jobs/{job_id}/runs", responses=responses(404))
    def runs(job_id: str) -> Json:
        """A job's attempts."""
        return {"runs": backend.runs(job_id)}


def _feed_routes(router: APIRouter, backend: Backend) -> None:
    open_streams = [0]

    @router.get("/rl/jobs/{job_id}/events", responses=responses(404))
    @router.get("/learning/jobs/{job_id}/events", responses=responses(404))
    def events(
        job_id: str,
        since_seq: Annotated[int | None, Query(ge=0)] = None,
        limit: _Limit = 200,
        after: _Text = "",
        since: _Text = "",
    ) -> Json:
        """The first events after a place in the log; without a place, the last ones."""
        found = backend.events(job_id)
        place = int(after) if after.isdecimal() else since_seq
        if place is not None:
            return {"events": [event for event in found if event["seq"] > place][:limit]}
        bound = None if since.isdecimal() else _time(since)
        late = [one for one in found if bound is None or datetime.fromisoformat(one["created_at"]) > bound]
        return {"events": late[-limit:]}

    @router.get("/rl/jobs/{job_id}/metrics", responses=responses(404))
    @router.get("/learning/jobs/{job_id}/metrics", responses=responses(404))
    def metrics(job_id: str, after_step: Annotated[int, Query(ge=-1)] = -1, limit: _Limit = 200) -> Json:
        """Metric points after a step, whole steps."""
        return {"points": backend.points(job_id, after_step, limit)}

    @router.get("/rl/jobs/{job_id}/timeline", responses=responses(404))
    @router.get("/learning/jobs/{job_id}/timeline", responses=responses(404))
    def timeline(job_id: str) -> Json:
        """The phases that a job has reached.

        ``events``, which a polling client reads after log and metrics, leaves out how the job ended: at that sign it
        would leave without what the job has said since.
        """
        phases = backend.phases(job_id)
        return {"events": [one for one in phases if one["phase"] not in ENDS], "timeline": phases}

    @router.get("/rl/jobs/{job_id}/stream", responses=responses(404, 429))
    @router.get("/learning/jobs/{job_id}/stream", responses=responses(404, 429))
    async def stream(
        job_id: str,
        since_id: _Text = "",
        types: _Text = "log,metric,status",
        heartbeat: Annotated[float, Query(ge=1, le=60)] = 20.0,
        last_event_id: Annotated[str, Header(max_length=64)] = "",
    ) -> StreamingResponse:
        """A job's log, metrics and status as they come."""
        place, wanted = parse_place(last_event_id or since_id), _types(types)
        await asyncio.to_thread(backend.job, job_id)
        if open_streams[0] >= MAX_STREAMS:
            raise TooManyError(f"{MAX_STREAMS} streams are open", "close one, or ask again later")
        found = job_stream(backend, job_id, place, wanted, heartbeat, POLL_S, LIFETIME_S)
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(_counted(found, open_streams), media_type="text/event-stream", headers=headers)


def _record_routes(router: APIRouter, backend: Backend) -> None:
    @router.get("/learning/models", responses=responses())
    def models(limit: _Limit = 20, type: Literal["rl", "sft", ""] = "") -> Json:
        """The newest models first."""
        return {"models": backend.models(limit, type)}

    @router.get("/learning/models/rl", responses=responses())
    def rl_models(limit: _Limit = 20) -> Json:
        """The newest models that RL has made first."""
        return {"models": backend.models(limit, "rl")}

    @router.get("/learning/models/{model_id:path}", responses=responses(404))
    def model(model_id: str) -> Json:
        """One model."""
        return backend.model(model_id)

    @router.post("/files", status_code=201, responses=responses(body=True))
    def add_file(
        file: Annotated[UploadFile, File()], purpose: Annotated[str, Form(max_length=32)] = "fine-tune"
    ) -> Json:
        """Keeps a file."""
        return file_view(backend.add_file(file.filename or "", purpose, file.file))

    @router.get("/files", responses=responses())
    def files(limit: _Limit = 20, purpose: _Text = "") -> Json:
        """The newest uploads first."""
        return {"files": backend.files(limit, purpose)}

    @router.get("/files/{file_id}", responses=responses(404))
    def file(file_id: str) -> Json:
        """One upload."""
        return backend.file(file_id)


async def _counted(found: AsyncIterator[bytes], open_streams: list[int]) -> AsyncIterator[bytes]:
    open_streams[0] += 1
    try:
        async for event in found:
            yield event
    finally:
        open_streams[0] -= 1


def _types(text: str) -> frozenset[str]:
    wanted = frozenset(filter(None, text.split(",")))
    if foreign := sorted(wanted - {*TYPES, "artifact"}):
        raise ConfigError(f"unknown type {foreign[0]!r}", f"known: {', '.join(TYPES)}")
    return wanted


def _time(text: str) -> datetime | None:
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{text!r} is not a time", "give it as ISO 8601") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
