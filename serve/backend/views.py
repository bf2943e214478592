"""Jobs, models, files and runs as the API shows them. Pure; no view holds a path of this machine."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from synth_ray.records.registry import Job, Model, StoredFile
from synth_ray.records.run_record import Attempt
from synth_ray.records.states import State

TRAINING_TYPES: Mapping[str, str] = {"rl": "rl_online", "sft": "sft_offline"}
_OTHER_TYPES: Mapping[str, str] = {"sft_online": "sft", "dpo": "dpo"}
_STATUS: Mapping[State, str] = {
    State.CREATED: "queued",
    State.SUCCEEDED: "succeeded",
    State.FAILED: "failed",
    State.CANCELLED: "cancelled",
}
ENDS = ("succeeded", "failed", "cancelled")
_HIDDEN = ("path", "run_dir", "adapter", "data", "trace_db")


def job_view(job: Job) -> dict[str, Any]:
    """One job; ``model_id`` is the model that came out of it."""
    view: dict[str, Any] = {
        "id": job.job_id,
        "job_id": job.job_id,
        "name": job.name,
        "type": job.type,
        "training_type": TRAINING_TYPES.get(job.type, job.type),
        "status": status_of(job.status),
        "created_at": job.created_at,
        "updated_at": job.updated_at,
    }
    if job.result and job.result.get("model"):
        view |= {"model_id": job.result["model"], "fine_tuned_model": job.result["model"]}
    if job.error:
        view["error"] = job.error
    return view


def status_of(state: State) -> str:
    """queued, running, succeeded, failed or cancelled."""
    return _STATUS.get(state, "running")


def kind_of(training_type: str) -> str:
    """The registry's type of job for one of the API's."""
    known = {shown: kind for kind, shown in TRAINING_TYPES.items()}
    return known.get(training_type) or _OTHER_TYPES.get(training_type, training_type)


def result_view(result: Mapping[str, Any]) -> dict[str, Any]:
    """What a job returned."""
    return {key: value for key, value in result.items() if key not in _HIDDEN}


def model_view(model: Model) -> dict[str, Any]:
    """One model."""
    return {
        "id": model.model_id,
        "base_model": model.base,
        "kind": model.kind,
        "digest": model.digest,
        "created_at": model.created_at,
        "job_id": model.job_id,
        "status": "ready",
        "owner": "local",
        "metrics": dict(model.metrics),
    }


def file_view(file: StoredFile) -> dict[str, Any]:
    """One upload."""
    return {
        "id": file.file_id,
        "file_id": file.file_id,
        "object": "file",
        "purpose": file.purpose,
        "bytes": file.size_bytes,
        "sha256": file.sha256,
        "created_at": file.created_at,
        "filename": file.filename,
        "status": "ready",
    }


def run_view(job_id: str, attempt: Attempt) -> dict[str, Any]:
    """One attempt of a run."""
    ended = attempt.updated_at if attempt.state.final else None
    return {
        "id": f"{job_id}-{attempt.number}",
        "run_number": attempt.number,
        "engine": "ray",
        "status": status_of(attempt.state),
        "created_at": attempt.started_at,
        "started_at": attempt.started_at,
        "ended_at": ended,
        "duration_seconds": _seconds(attempt.started_at, ended) if ended else None,
    }


def is_after(text: str, bound: datetime) -> bool:
    """Whether a time stamp of ours lies after ``bound``; one that can't be read does."""
    try:
        return datetime.fromisoformat(text) > bound
    except ValueError:
        return True


def _seconds(start: str, end: str) -> float | None:
    try:
        return round((datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds(), 1)
    except ValueError:
        return None
