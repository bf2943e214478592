"""A job's events, metric points and status as server-sent events, resumable at any place.

The id of an event is ``SEQ-STEP``: everything up to that log entry and that step has been sent. A client that comes
back with it as ``Last-Event-ID`` misses nothing and gets nothing twice, but for the status, which it gets again.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import Any

from serve.backend.service import Backend
from serve.backend.views import job_view
from serve.http_json import json_bytes
from synth_ray.core.errors import ConfigError

TYPES = ("log", "metric", "status")
_ID = re.compile(r"(\d{1,9})(?:-(-1|\d{1,9}))?")
_POINTS = 1000


@dataclass(frozen=True, slots=True)
class Place:
    """How far a stream has come: the last ``seq`` of the log, the last ``step`` of the metrics."""

    seq: int = 0
    step: int = -1

    def __str__(self) -> str:
        return f"{self.seq}-{self.step}"


def parse_place(text: str) -> Place:
    """The place that an event id names; ``12`` is entry 12 and no metric. Raises ConfigError."""
    match = _ID.fullmatch(text) if text else None
    if text and match is None:
        raise ConfigError(f"{text[:40]!r} is not an event id", "for example 12-3, as the stream has sent it")
    return Place(int(match[1]), int(match[2] or -1)) if match else Place()


async def job_stream(
    backend: Backend,
    job_id: str,
    place: Place,
    types: frozenset[str],
    heartbeat_s: float,
    poll_s: float,
    lifetime_s: float,
) -> AsyncIterator[bytes]:
    """Sends what is new until the job has ended, or ``lifetime_s`` has passed and the client has to come back."""
    began = heard = time.monotonic()
    status = ""
    while True:
        job = await asyncio.to_thread(backend.job, job_id)
        place, found = await asyncio.to_thread(_new, backend, job_id, place, types)
        if str(job.status) != status and "status" in types:
            status = str(job.status)
            found.append(_sse(place, "status", job_view(job)))
        for event in found:
            heard = time.monotonic()
            yield event
        if job.status.final or time.monotonic() - began > lifetime_s:
            return
        if time.monotonic() - heard >= heartbeat_s:
            heard = time.monotonic()
            yield b": keep-alive\n\n"
        await asyncio.sleep(poll_s)


def _new(backend: Backend, job_id: str, place: Place, types: frozenset[str]) -> tuple[Place, list[bytes]]:
    """Where the stream stands then, and what has to be sent to get there."""
    found: list[bytes] = []
    if "log" in types:
        for event in backend.events(job_id):
            if event["seq"] > place.seq:
                place = replace(place, seq=event["seq"])
                found.append(_sse(place, "log", event))
    if "metric" in types:
        points = backend.points(job_id, place.step, _POINTS)
        for step, group in groupby(points, key=itemgetter("step")):
            place = replace(place, step=step)
            found.append(_sse(place, "metric", {"step": step, "points": list(group)}))
    return place, found


def _sse(place: Place, kind: str, data: dict[str, Any]) -> bytes:
    return f"id: {place}\nevent: {kind}\ndata: ".encode() + json_bytes(data) + b"\n\n"
