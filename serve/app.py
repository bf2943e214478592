"""From names and numbers to running Serve applications, with a deadline and one clear reason when it fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import serve as ray_serve

from envs.registry import app_name, source_digest
from serve import gateway_app, policy, task_app
from synth_ray.core.errors import ConflictError, DeadlineError, PrerequisiteError
from synth_ray.core.locks import one_at_a_time
from synth_ray.core.paths import Home
from synth_ray.core.text import last_line
from synth_ray.core.waiting import wait_for
from synth_ray.runtime.devices import EngineSpec
from synth_ray.runtime.remote import local_error

TASK_TIMEOUT_S = 90.0
ENGINE_TIMEOUT_S = 600.0
_POLL_S = 1.0
_REDEPLOYED = ("DEPLOY_FAILED", "DELETING")
_SPEC_TIMEOUT_S = 30.0
Report = Callable[[str, float], None]


@dataclass(frozen=True)
class Wanted:
    """One application that must run."""

    name: str
    route: str | None
    application: Any
    timeout_s: float
    source: str = ""
    """SHA-256 of the file that the application's task is in, if it is the user's own."""
    env_file: str = ""
    """Where its keys are read."""


def start_serve(port: int, lock_file: Path) -> None:
    """Starts Serve on the loopback, if it is not running yet."""
    with one_at_a_time(lock_file):
        ray_serve.start(http_options={"host": "127.0.0.1", "port": port})


def task(app_id: str, env_file: str, project: Path) -> Wanted:
    """The task app of a task that this process has loaded, under its own name; Serve must have been started."""
    own_origin = f"http://127.0.0.1:{http_port()}"
    name, application = app_name(app_id), task_app.build(app_id, env_file, own_origin, str(project))
    return Wanted(name, f"/{name}", application, TASK_TIMEOUT_S, source_digest(app_id), _plain(env_file))


def gateway(home: Home, env_file: str) -> Wanted:
    """The gateway: every model of ``home`` and its jobs. It runs on this node, where ``home`` is."""
    application = gateway_app.build(home, env_file, _this_node())
    return Wanted(gateway_app.APP, gateway_app.ROUTE, application, TASK_TIMEOUT_S, env_file=_plain(env_file))


def engine(spec: EngineSpec) -> Wanted:
    """The policy."""
    return Wanted(policy.APP, None, policy.build(spec), ENGINE_TIMEOUT_S)


def ensure(wanted: list[Wanted], lock_file: Path) -> None:
    """Deploys those applications that are not there yet; does not wait. Two jobs at once deploy each only once."""
    with one_at_a_time(lock_file):
        _deploy_missing(wanted)


def _deploy_missing(wanted: list[Wanted]) -> None:
    known = ray_serve.status().applications
    missing = [one for one in wanted if one.name not in known or known[one.name].status in _REDEPLOYED]
    targets = [ray_serve.RunTarget(one.application, name=one.name, route_prefix=one.route) for one in missing]
    if targets:
        ray_serve.run_many(targets, wait_for_applications_running=False)


def check_engine(spec: EngineSpec) -> None:
    """ConflictError if the running engine was started with other settings than ``spec`` asks for."""
    running = running_engine()
    if running and (running.device, running.options) != (spec.device, spec.options):
        raise ConflictError(
            "the running engine has other [vllm] settings than this config",
            "give both the same [vllm] section, or restart it with: synth-ray deploy -c FILE",
        )


def replace_outdated(wanted: Wanted) -> str:
    """Removes the running application if it is outdated, so that ``ensure`` starts a new one; says why, or nothing."""
    known = ray_serve.status().applications.get(wanted.name)
    if known is None or (known.status != "RUNNING" and not wanted.source):  # What only just starts has read its keys.
        return ""
    try:
        running = handle(wanted.name).ready.remote().result(timeout_s=_SPEC_TIMEOUT_S)
    except (TimeoutError, ray.exceptions.RayError, ray_serve.exceptions.RayServeException):
        running = None
    reason = outdated(wanted, running)
    if reason:
        ray_serve.delete(wanted.name)
    return reason


def outdated(wanted: Wanted, running: Mapping[str, Any] | None) -> str:
    """Why an application that says ``running`` of itself is not the ``wanted`` one; None is no answer."""
    if running is None:
        return "it does not answer" if wanted.source else ""
    if running.get("source", "") != wanted.source:
        return "the file of its task has changed"
    if running.get("env_file", "") != wanted.env_file and Path(wanted.env_file).is_file():
        return "its keys are in another file"
    return "its keys have changed" if running.get("keys_changed") else ""


def replace_engine(spec: EngineSpec) -> None:
    """Removes a running engine that was started with other settings, so that ``ensure`` starts one with these."""
    running = running_engine()
    if running and (running.device, running.options) != (spec.device, spec.options):
        ray_serve.delete(policy.APP)


def running_engine() -> EngineSpec | None:
    """The settings of the running engine."""
    if policy.APP not in ray_serve.status().applications:
        return None
    try:
        spec: EngineSpec = handle(policy.APP).spec.remote().result(timeout_s=_SPEC_TIMEOUT_S)
    except (TimeoutError, ray.exceptions.RayError, ray_serve.exceptions.RayServeException):
        return None
    return spec


def handle(name: str) -> Any:
    """The handle of a running application."""
    return ray_serve.get_app_handle(name)


def wait_ready(wanted: Wanted, report: Report | None = None) -> dict[str, Any]:
    """Waits until the application answers; one that can't start is removed, and the reason is raised."""
    deadline = time.monotonic() + wanted.timeout_s
    try:
        wait_for(
            f"application {wanted.name}",
            lambda: _running(wanted.name),
            wanted.timeout_s,
            _POLL_S,
            "see `synth-ray logs` and the Ray dashboard",
            lambda waited_s: report(f"replica of {wanted.name}", waited_s) if report else None,
        )
        response = handle(wanted.name).ready.remote()
        answer = _answer(wanted.name, response, deadline, report)
    except PrerequisiteError:
        ray_serve.delete(wanted.name, _blocking=False)
        raise
    if answer.get("source", "") != wanted.source:
        raise ConflictError(
            f"the running task app {wanted.name} was started from another version of its file",
            "restart it: synth-ray deploy APP",
        )
    return answer


def _plain(path: str) -> str:
    return str(Path(path)) if path else ""


def _running(name: str) -> bool | None:
    status = ray_serve.status().applications.get(name)
    if status is None:
        return None
    if status.status == "DEPLOY_FAILED":
        reasons = [d.message for d in status.deployments.values() if d.message] or [status.message]
        raise PrerequisiteError(f"application {name} could not start: {last_line(reasons[0], 'no message')}")
    return True if status.status == "RUNNING" else None


def _answer(name: str, response: Any, deadline: float, report: Report | None) -> dict[str, Any]:
    started = time.monotonic()
    while True:
        try:
            return dict(response.result(timeout_s=1.0))
        except TimeoutError:
            if time.monotonic() > deadline:
                raise DeadlineError(f"{name} started but did not become ready in time") from None
            if report:
                report(f"{name} to load", time.monotonic() - started)
        except ray.exceptions.RayError as error:
            raise local_error(error) from None


def _this_node() -> dict[str, float]:
    """The resource that only the node of this process has."""
    here = ray.get_runtime_context().get_node_id()
    resources = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == here)
    name = next(name for name in resources if name.startswith("node:") and not name.endswith("__"))
    return {name: 0.001}


def http_port() -> int:
    """The port on which Serve's HTTP proxy listens."""
    from ray.serve.context import _get_global_client

    return int(_get_global_client().http_config.port)
