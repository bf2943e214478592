"""What every job does around its work: arguments, config, cluster, registry, events, result, exit code."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from synth_ray.core.config import Resolved, Section, load_config
from synth_ray.core.errors import ConfigError, PrerequisiteError, SynthRayError
from synth_ray.core.paths import Home, find_home, import_also_from
from synth_ray.core.waiting import wait_for
from synth_ray.records.job_files import JobFiles
from synth_ray.records.registry import Registry, new_job_id
from synth_ray.records.run_record import write_config
from synth_ray.records.states import State
from synth_ray.runtime.adapters import NAMESPACE

C = TypeVar("C", bound=Section)
log = logging.getLogger("synth_ray.jobs")
CONNECT_TIMEOUT_S = 90.0


class Terminated(BaseException):
    """SIGTERM or SIGINT: stop cleanly."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.exit_code = 128 + signum


@dataclass(frozen=True)
class Job(Generic[C]):
    """What a job's work function gets."""

    job_id: str
    name: str
    home: Home
    resolved: Resolved[C]
    registry: Registry
    files: JobFiles
    env_file: str
    http_port: int
    resume: bool

    @property
    def config(self) -> C:
        """The validated configuration."""
        return self.resolved.config

    def report(self, stage: str, done: int = 0, total: int = 0, note: str = "") -> None:
        """Tells a watcher where the job is, and what it waits for."""
        self.files.event(stage, done, total, note)


def run_job(kind: str, model: type[C], work: Callable[[Job[C]], Mapping[str, Any]]) -> None:
    """Runs ``work`` as job ``kind`` and exits with its code."""
    arguments = _parser(kind).parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    _handle_signals()
    home = find_home(arguments.project)
    import_also_from(home.project)
    job_id = arguments.job_id or new_job_id()
    files = JobFiles(home.jobs / job_id)
    if arguments.job_id:
        files.take_output()
    try:
        code = _run(kind, model, work, arguments, home, job_id, files)
    except SynthRayError as error:
        files.failed(error.as_dict(), error.exit_code)
        sys.stderr.write(f"error: {error.message}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        code = error.exit_code
    except Terminated as stop:
        files.failed({"kind": "cancelled", "message": "the job was stopped"}, stop.exit_code)
        code = stop.exit_code
    sys.stderr.flush()
    os._exit(code)  # Threads of a stopped run must not hold the process.


def _run(
    kind: str,
    model: type[C],
    work: Callable[[Job[C]], Mapping[str, Any]],
    arguments: argparse.Namespace,
    home: Home,
    job_id: str,
    files: JobFiles,
) -> int:
    if arguments.resume and not arguments.run_name:
        raise ConfigError("--resume needs --run-name", "name the run to go on with")
    resolved = load_config(model, arguments.config, arguments.set)
    for warning in resolved.warnings:
        log.warning("%s", warning)
    values = resolved.as_dict()
    files.began_in(home.project)
    write_config(files.config_path, values["config"], resolved.sources)
    with Registry(home.state_db) as registry:
        name = arguments.run_name or job_id
        registry.claim_job(job_id, kind, name, values["sha256"])
        try:
            registry.set_job_status(job_id, State.STARTING)
            files.event("connect", note="the cluster")
            connect(arguments.ray_address)
            _handle_signals()  # Ray has put its own in their place.
            job = Job(
                job_id, name, home, resolved, registry, files, arguments.env_file, arguments.port, arguments.resume
            )
            registry.set_job_status(job_id, State.RUNNING)
            result = dict(work(job))
        except SynthRayError as error:
            registry.set_job_status(job_id, State.FAILED, error.message)
            raise
        except Terminated:
            registry.set_job_status(job_id, State.CANCELLED, "stopped")
            raise
        except Exception as error:
            traceback.print_exc()
            registry.set_job_status(job_id, State.FAILED, f"{type(error).__name__}: {error}")
            files.failed({"kind": "internal", "message": f"{type(error).__name__}: {error}"}, 1)
            return 1
        registry.set_job_status(job_id, State.SUCCEEDED, result=result)
        files.succeeded(result)
    return 0


def connect(address: str = "auto") -> None:
    """Joins the cluster at ``address``; "auto" is the one that Ray finds, which is a guess if there are several."""
    import ray

    def attempt() -> bool | None:
        try:
            ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.WARNING)
        except ConnectionError as error:
            if not os.environ.get("RAY_ADDRESS"):
                raise PrerequisiteError(
                    "no Ray cluster is running here", "start one with: synth-ray deploy grpo-crafter"
                ) from None
            log.warning("the cluster did not answer: %s", error)  # A busy machine can be late; Ray gives up early.
            return None
        return True

    wait_for("the Ray cluster", attempt, CONNECT_TIMEOUT_S, interval_s=1.0)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)


def _parser(kind: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m jobs.{kind}")
    parser.add_argument("--config", type=Path, action="append", default=[], help="TOML; later files win")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--job-id", default="", help="id in the registry; made if absent")
    parser.add_argument("--run-name", default="")
    parser.add_argument("--resume", action="store_true", help="go on with the run of that name")
    parser.add_argument("--project", type=Path, default=None, help="folder for runs, traces, data and models")
    parser.add_argument("--ray-address", default="auto", help="the cluster to join")
    parser.add_argument("--env-file", default="", help="where the task app's key is read")
    parser.add_argument("--port", type=int, default=8000, help="HTTP port of Ray Serve, if it is not running yet")
    return parser


def _handle_signals() -> None:
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, _terminate)


def _terminate(signum: int, _: Any) -> None:
    raise Terminated(signum)
