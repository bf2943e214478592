"""How a run ended that was killed: it could not write that down, but its job is known to have ended."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from synth_ray.core.errors import NotFoundError
from synth_ray.records.registry import Registry
from synth_ray.records.run_record import RunRecord


def with_end(record: RunRecord, state_db: Path) -> RunRecord:
    """The record of a run; if it says that the run goes on, but the job of its last attempt has ended, with that end.

    ``run.json`` itself stays as it is: it belongs to the job that runs, and the next attempt puts it right.
    """
    if record.state.final or not record.attempts or not state_db.exists():
        return record
    *earlier, last = record.attempts
    with suppress(NotFoundError), Registry(state_db, read_only=True) as registry:
        job = registry.job(last.ray_job_id)
        if job.status.final:
            ended = replace(last, state=job.status, updated_at=job.updated_at)
            return replace(
                record, state=job.status, error=job.error, updated_at=job.updated_at, attempts=(*earlier, ended)
            )
    return record
