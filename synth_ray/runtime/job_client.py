"""Jobs through Ray's Jobs API: submit one of our entry points, watch its files, stop it."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synth_ray.core import errors
from synth_ray.core.errors import JobFailed, SynthRayError, TemporaryError
from synth_ray.core.paths import Home, config_path
from synth_ray.core.text import last_line
from synth_ray.records.job_files import JobFiles
from synth_ray.records.registry import new_job_id
from synth_ray.runtime.cluster import LocalCluster

_POLL_S = 0.25
_STATUS_EVERY_S = 3.0
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True)
class Submitted:
    """A job that runs. ``kind`` is the module under ``jobs``."""

    job_id: str
    kind: str
    files: JobFiles


class JobClient:
    """Talks to one cluster."""

    def __init__(self, cluster: LocalCluster, home: Home, env_file: Path) -> None:
        os.environ.update(cluster.client_env)
        from ray.job_submission import JobSubmissionClient

        self._cluster, self._home, self._env_file = cluster, home, env_file
        self._client: Any = JobSubmissionClient(cluster.dashboard)

    def submit(
        self,
        kind: str,
        configs: Sequence[Path],
        sets: Sequence[str] = (),
        run_name: str = "",
        module: str = "",
        resume: bool = False,
    ) -> Submitted:
        """Starts ``python -m jobs.KIND`` (or ``module``) on the cluster; returns as soon as it is accepted."""
        job_id = new_job_id()
        command = [sys.executable, "-m", module or f"jobs.{kind}", "--job-id", job_id]
        for config in configs:
            command += ["--config", str(config_path(config).resolve())]
        for item in sets:
            command += ["--set", item]
        command += ["--project", str(self._home.project), "--env-file", str(self._env_file)]
        command += ["--port", str(self._cluster.http_port)]
        command += ["--run-name", run_name] if run_name else []
        command += ["--resume"] if resume else []
        files = JobFiles(self._home.jobs / job_id)
        self._client.submit_job(
            entrypoint=shlex.join(command),
            submission_id=job_id,
            entrypoint_num_cpus=0,
        )
        return Submitted(job_id, kind, files)

    def wait(self, job: Submitted, on_event: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
        """The job's result; raises the job's own error. The job bounds its own waits."""
        checked = time.monotonic()
        while (result := job.files.result()) is None:
            if on_event and (event := job.files.last_event()):
                on_event(event)
            if time.monotonic() - checked > _STATUS_EVERY_S:
                checked = time.monotonic()
                self._check_alive(job)
            time.sleep(_POLL_S)
        if result["ok"]:
            return dict(result["result"])
        raise rebuild(result["error"], int(result["exit_code"]))

    def stop(self, job: Submitted) -> None:
        """Asks the job to stop and gives it a moment to record that."""
        with suppress(Exception):
            self._client.stop_job(job.job_id)
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline and self._status(job) not in _ENDED:
                time.sleep(_POLL_S)

    def logs(self, job_id: str) -> str:
        """What the job has printed."""
        return str(self._client.get_job_logs(job_id))

    def _status(self, job: Submitted) -> str:
        return str(self._client.get_job_status(job.job_id).value)

    def _check_alive(self, job: Submitted) -> None:
        try:
            status = self._status(job)
        except Exception as error:
            raise TemporaryError(
                f"the cluster does not answer: {type(error).__name__}", f"see {self._cluster.log}"
            ) from None
        if status in _ENDED and job.files.result() is None:
            time.sleep(1.0)
            if job.files.result() is None:
                raise JobFailed(f"job {job.job_id} ended as {status} without a result: {self._last_words(job)}")

    def _last_words(self, job: Submitted) -> str:
        return last_line(self.logs(job.job_id), "it printed nothing")


def rebuild(error: dict[str, Any], exit_code: int) -> SynthRayError:
    """The error that a job reported, with the class of its exit code."""
    classes = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, SynthRayError) and value.exit_code == exit_code
    ]
    cls = next((one for one in classes if one.kind == error.get("kind")), classes[0] if classes else JobFailed)
    return cls(str(error.get("message", "")), str(error.get("hint", "")), **dict(error.get("details") or {}))
