"""Deploys a task app, the gateway, and the policy unless the config's model is empty.

python -m jobs.deploy --set app_id=grpo-crafter --set model=crafter-tiny
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray

from envs.registry import get_task
from jobs.eval import engine_spec, preflight
from jobs.runner import Job, run_job
from serve import app, policy
from serve.models import resolve
from synth_ray.core.errors import DeadlineError, SynthRayError
from synth_ray.core.origins import read_origins
from synth_ray.core.sections import DeployConfig
from synth_ray.core.types import GenerateRequest, Sampling, Weights
from synth_ray.runtime.remote import local_error

_FIRST_CALL_TIMEOUT_S = app.ENGINE_TIMEOUT_S


def work(job: Job[DeployConfig]) -> Mapping[str, Any]:
    """Starts what is missing or outdated and waits until it answers."""
    config = job.config
    get_task(config.app_id)
    _check_keys(job)
    app.start_serve(job.http_port, job.home.serve_lock)
    wanted = [app.task(config.app_id, job.env_file, job.home.project)]
    if config.gateway:
        wanted.append(app.gateway(job.home, job.env_file))
    for one in wanted:
        if reason := app.replace_outdated(one):
            job.report("replace", note=f"{one.name}: {reason}")
    if config.model:
        preflight(config)
        weights = resolve(config.model, job.home, job.registry).weights
        spec = engine_spec(config, weights)
        app.replace_engine(spec)
        wanted.append(app.engine(spec))
    app.ensure(wanted, job.home.serve_lock)
    for one in wanted:
        app.wait_ready(one, lambda what, waited_s: job.report("wait", note=f"{what} ({waited_s:.0f} s)"))
    if config.model:
        _first_call(weights)
    origin = f"http://127.0.0.1:{app.http_port()}"
    gateway = {"gateway": f"{origin}/v1"} if config.gateway else {}
    return {"url": f"{origin}{wanted[0].route}", **gateway, "apps": [one.name for one in wanted]}


def _check_keys(job: Job[DeployConfig]) -> None:
    """Raises what a task app would raise at its start, before a running one is replaced."""
    path = Path(job.env_file)
    if path.is_file():
        read_origins(path, f"http://127.0.0.1:{job.http_port}")


def _first_call(weights: Weights) -> None:
    """One token, so that `deployed` means that the engine has answered."""
    request = GenerateRequest("first-call", (0,), weights, Sampling(max_tokens=1))
    try:
        (answer,) = app.handle(policy.APP).generate.remote([request]).result(timeout_s=_FIRST_CALL_TIMEOUT_S)
    except TimeoutError:
        raise DeadlineError(f"the engine did not answer within {_FIRST_CALL_TIMEOUT_S:.0f} s") from None
    except ray.exceptions.RayError as error:
        raise local_error(error) from None
    if isinstance(answer, SynthRayError):
        raise answer


if __name__ == "__main__":
    run_job("deploy", DeployConfig, work)
