"""Jobs through Ray's Jobs API: submit one of our entry points, watch its files, stop it.

Every request has a timeout. A cluster that is gone is a PrerequisiteError, one that is slow a TemporaryError.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synth_ray.core import errors
from synth_ray.core.errors import AuthError, ConflictError, JobFailed, PrerequisiteError, SynthRayError, TemporaryError
from synth_ray.core.paths import Home, config_path
from synth_ray.core.text import last_line
from synth_ray.records.job_files import JobFiles
from synth_ray.records.registry import Registry, new_job_id
from synth_ray.records.states import State
from synth_ray.runtime.cluster import ENDED, LocalCluster

REQUEST_TIMEOUT_S = 15.0
_SUBMIT_TIMEOUT_S = 60.0
_SILENCE_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 5.0
_POLL_S = 0.25
_STATUS_EVERY_S = 3.0
_NO_NODE_YET = "No available agent"  # Ray's words, after it has waited for ten seconds


@dataclass(frozen=True)
class Submitted:
    """A job that runs. ``kind`` is the module under ``jobs``."""

    job_id: str
    kind: str
    files: JobFiles


class JobClient:
    """Talks to one cluster."""

    def __init__(self, cluster: LocalCluster, home: Home, env_file: Path) -> None:
        # Ray's client takes RAY_ADDRESS over its argument and asks the GCS there, half a minute long if it is gone.
        os.environ.update({**cluster.client_env, "RAY_API_SERVER_ADDRESS": cluster.dashboard})
        self._cluster, self._home, self._env_file = cluster, home, env_file
        with self._talking():
            self._client: Any = _with_timeouts(cluster.dashboard)

    def submit(
        self,
        kind: str,
        configs: Sequence[Path],
        sets: Sequence[str] = (),
        run_name: str = "",
        module: str = "",
        resume: bool = False,
        job_id: str = "",
    ) -> Submitted:
        """Starts ``python -m jobs.KIND`` (or ``module``) on the cluster, under ``job_id`` or a fresh one.

        When it returns, the job is in the registry, so every other command can see it.
        """
        job_id = job_id or new_job_id()
        command = [sys.executable, "-m", module or f"jobs.{kind}", "--job-id", job_id]
        for config in configs:
            command += ["--config", str(config_path(config).resolve())]
        for item in sets:
            command += ["--set", item]
        command += ["--project", str(self._home.project), "--env-file", str(self._env_file)]
        # Not left to Ray: with two clusters on a machine it gives jobs the address of the newer one.
        command += ["--port", str(self._cluster.http_port), "--ray-address", self._cluster.address]
        command += ["--run-name", run_name] if run_name else []
        command += ["--resume"] if resume else []
        job = Submitted(job_id, kind, JobFiles(self._home.jobs / job_id))
        job.files.submitted_to(self._cluster.cluster_id)
        name = run_name or job_id
        run_dir = str(self._home.runs / name) if kind in ("rl", "sft") else ""
        with Registry(self._home.state_db) as registry:
            registry.create_job(kind, name, run_dir=run_dir, job_id=job_id)
        try:
            self._submit(shlex.join(command), job_id)
        except SynthRayError as error:
            self._ended(job, error)
            raise
        return job

    def wait(self, job: Submitted, on_event: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
        """The job's result; raises the job's own error. The job bounds its own waits."""
        checked = answered = time.monotonic()
        while (result := job.files.result()) is None:
            if on_event and (event := job.files.last_event()):
                on_event(event)
            if time.monotonic() - checked > _STATUS_EVERY_S:
                checked = time.monotonic()
                if self._check_alive(job, checked - answered > _SILENCE_TIMEOUT_S):
                    answered = checked
            time.sleep(_POLL_S)
        return outcome(result)

    def stop(self, job: Submitted) -> None:
        """Asks the job to stop and gives it a moment to record that; if it had not begun, records it here."""
        with suppress(SynthRayError):
            with self._talking():
                self._client.stop_job(job.job_id)
            deadline = time.monotonic() + _STOP_TIMEOUT_S
            while time.monotonic() < deadline:
                if job.files.result() is not None:
                    return
                if self._status(job) in ENDED:
                    break
                time.sleep(_POLL_S)
            else:
                return
            time.sleep(_POLL_S)
            if job.files.result() is None:
                job.files.failed({"kind": "cancelled", "message": "the job was stopped"}, 143)
                with Registry(self._home.state_db) as registry, suppress(ConflictError):
                    registry.set_job_status(job.job_id, State.CANCELLED, "stopped")

    def logs(self, job_id: str) -> str:
        """What Ray says that the job has printed; jobs of ours print into their own folder instead."""
        with self._talking():
            return str(self._client.get_job_logs(job_id))

    def _submit(self, entrypoint: str, job_id: str) -> None:
        """Tries again while a new cluster's head answers already and its node does not yet, on a busy machine."""
        deadline = time.monotonic() + _SUBMIT_TIMEOUT_S
        while True:
            with self._talking():
                try:
                    self._client.submit_job(entrypoint=entrypoint, submission_id=job_id, entrypoint_num_cpus=0)
                    return
                except RuntimeError as error:
                    if _NO_NODE_YET not in str(error) or time.monotonic() > deadline:
                        raise
            time.sleep(_POLL_S)

    def _status(self, job: Submitted) -> str:
        with self._talking():
            return str(self._client.get_job_status(job.job_id).value)

    def _check_alive(self, job: Submitted, silent: bool) -> bool:
        """Whether the cluster answered. Raises if the job ended without a word, or if nothing answers any more."""
        try:
            status = self._status(job)
        except TemporaryError:
            if silent:
                raise
            return False
        if status in ENDED and job.files.result() is None:
            time.sleep(1.0)
            if job.files.result() is None:
                error = JobFailed(f"job {job.job_id} ended as {status} without a result: {self._last_words(job)}")
                self._ended(job, error)
                raise error
        return True

    def _last_words(self, job: Submitted) -> str:
        printed = job.files.log_path.read_text(errors="replace") if job.files.log_path.exists() else ""
        return last_line(printed or self.logs(job.job_id), "it printed nothing")

    def _ended(self, job: Submitted, error: SynthRayError) -> None:
        """Records the failure of a job that could not do so itself."""
        job.files.failed(error.as_dict(), error.exit_code)
        with Registry(self._home.state_db) as registry, suppress(ConflictError):
            registry.set_job_status(job.job_id, State.FAILED, error.message)

    @contextmanager
    def _talking(self) -> Iterator[None]:
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError:
            raise AuthError(
                "the cluster refused the token", "its token file has changed; stop it with: synth-ray down"
            ) from None
        except OSError as error:  # of requests too
            where = f"the cluster at {self._cluster.dashboard}"
            if not self._cluster.alive():
                raise PrerequisiteError(f"{where} is gone", "start one with: synth-ray up") from None
            raise TemporaryError(
                f"{where} does not answer: {type(error).__name__}", f"see {self._cluster.log}"
            ) from None
        except RuntimeError as error:  # Ray's client raises these for everything that the server refuses
            raise JobFailed(f"the cluster refused: {last_line(str(error), 'no reason')}") from None


def _with_timeouts(dashboard: str) -> Any:
    """Ray's client, which by itself would wait forever."""
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            timeout_s = _SUBMIT_TIMEOUT_S if method == "POST" else REQUEST_TIMEOUT_S
            return super()._do_request(method, endpoint, **{"timeout": timeout_s, **options})

    return Client(dashboard)


def outcome(result: dict[str, Any]) -> dict[str, Any]:
    """What a job returned; raises its own error if it failed."""
    if result["ok"]:
        return dict(result["result"])
    raise rebuild(result["error"], int(result["exit_code"]))


def rebuild(error: dict[str, Any], exit_code: int) -> SynthRayError:
    """The error that a job reported, with the class of its exit code."""
    classes = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, SynthRayError) and value.exit_code == exit_code
    ]
    cls = next((one for one in classes if one.kind == error.get("kind")), classes[0] if classes else JobFailed)
    return cls(str(error.get("message", "")), str(error.get("hint", "")), **dict(error.get("details") or {}))
