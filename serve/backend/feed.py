"""What a job says, as numbered events, metric points and phases; read from its files, so it survives the cluster.

An event's ``seq`` is its place in the job's log, beginning with 1; the last one says how the job ended. Steps of RL are
counted from 1 here ("after the first step"), since clients take step 0 for "none".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serve.backend.views import result_view, status_of
from synth_ray.records.job_files import JobFiles
from synth_ray.records.metrics import read_metrics
from synth_ray.records.registry import Job
from synth_ray.records.states import State

_TRAINS: Mapping[str, str] = {"rl": "rl.train.step", "sft": "sft.progress"}
_PHASES: Mapping[str, str] = {"connect": "initializing", "wait": "initializing", "train": "training"}
_FIRST_STEP: Mapping[str, int] = {"rl": 1}
_NAMES: Mapping[str, str] = {"lr": "train.learning_rate", "eval_loss": "val.loss"}
_NOT_METRICS = frozenset({"step", "t", "non_finite", "total"})


def job_events(job: Job, files: JobFiles) -> list[dict[str, Any]]:
    """Every event so far, in order."""
    lines = [_event(job, seq, line) for seq, line in enumerate(_lines(files.events_path), start=1)]
    end = files.result() or _recorded_end(job)
    return [*lines, _end(job, len(lines) + 1, end)] if end else lines


def job_phases(job: Job, files: JobFiles) -> list[dict[str, Any]]:
    """The phases that a job has reached: queued, initializing, training or evaluating, and how it ended."""
    phases = {"queued": job.created_at}
    for line in _lines(files.events_path):
        phases.setdefault(_PHASES.get(line["stage"], "evaluating"), _iso(line["t"]))
    if job.status.final:
        phases[status_of(job.status)] = job.updated_at
    return [
        {"job_id": job.job_id, "phase": phase, "message": phase, "created_at": at, "metadata": {}}
        for phase, at in phases.items()
    ]


def job_points(job: Job, metrics: Path, after_step: int, limit: int) -> list[dict[str, Any]]:
    """Metric points after a step: whole steps, as many as fit into ``limit``, but at least one."""
    points: list[dict[str, Any]] = []
    shift = _FIRST_STEP.get(job.type, 0)
    for row in read_metrics(metrics):
        step = row["step"] + shift
        new = [] if step <= after_step else [_point(job, step, row, key) for key in row if _is_metric(row, key)]
        if points and len(points) + len(new) > limit:
            break
        points += new
    return points


def metric_name(key: str) -> str:
    """``reward/mean`` is ``train.reward_mean``."""
    return _NAMES.get(key) or f"train.{key.replace('/', '_')}"


def _event(job: Job, seq: int, line: Mapping[str, Any]) -> dict[str, Any]:
    stage, note = str(line["stage"]), str(line["note"])
    trains = stage == "train"
    counted = f"{line['done']}/{line['total']}" if line["total"] else ""
    data = {"stage": stage, "done": line["done"], "total": line["total"], "note": note}
    shown = {"type": _TRAINS.get(job.type, f"{job.type}.train") if trains else f"{job.type}.{stage}", "level": "info"}
    return _numbered(
        job, seq, {**shown, "message": f"{counted} {note}".strip() or stage, "data": data}, _iso(line["t"])
    )


def _recorded_end(job: Job) -> dict[str, Any] | None:
    """How a job ended by the registry, which hears of it a moment before its files do, or instead of them."""
    if not job.status.final:
        return None
    if job.status is State.SUCCEEDED:
        return {"ok": True, "result": job.result or {}}
    kind = "cancelled" if job.status is State.CANCELLED else "internal"
    return {"ok": False, "error": {"kind": kind, "message": job.error or kind}}


def _end(job: Job, seq: int, end: Mapping[str, Any]) -> dict[str, Any]:
    if end["ok"]:
        result = result_view(end["result"])
        model = result.get("model")
        shown = {"type": f"{job.type}.job.completed", "level": "info", "message": f"succeeded: {model or job.name}"}
        return _numbered(job, seq, {**shown, "data": result}, job.updated_at)
    error = end["error"]
    how = "cancelled" if error.get("kind") == "cancelled" else "failed"
    shown = {"type": f"{job.type}.job.{how}", "level": "error", "message": str(error.get("message", how))}
    return _numbered(job, seq, {**shown, "data": {"error": error}}, job.updated_at)


def _numbered(job: Job, seq: int, event: Mapping[str, Any], at: str) -> dict[str, Any]:
    return {"seq": seq, "event_id": str(seq), "job_id": job.job_id, **event, "created_at": at, "timestamp": at}


def _point(job: Job, step: int, row: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = float(row[key])
    shown = {"job_id": job.job_id, "name": metric_name(key), "value": value, "step": step}
    return {**shown, "phase": "training", "epoch": 0, "created_at": row.get("t", "")}


def _is_metric(row: Mapping[str, Any], key: str) -> bool:
    return key not in _NOT_METRICS and isinstance(row[key], int | float) and not isinstance(row[key], bool)


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log that may still be written."""
    if not path.exists():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0]
    return [dict(json.loads(line)) for line in whole.splitlines() if line]


def _iso(t: float) -> str:
    return datetime.fromtimestamp(t, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
