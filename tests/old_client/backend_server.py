"""Our gateway and task app on one free loopback port, with a cluster that only plays at training.

Run by run_backend.py with the project's own interpreter; prints one JSON line, serves, ends when its stdin does.
"""

import asyncio
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from serve.backend.service import Backend
from serve.call_batcher import Answer
from serve.gateway import Gateway
from serve.gateway_http import create_app
from serve.task_host import TaskHost
from serve.task_http import create_app as create_task_app
from synth_ray.core.errors import PrerequisiteError
from synth_ray.core.paths import Home
from synth_ray.core.secrets import KeyRing, gateway_keys
from synth_ray.core.types import GenerateRequest
from synth_ray.records.job_files import JobFiles
from synth_ray.records.metrics import MetricsLog
from synth_ray.records.registry import Model, Registry
from synth_ray.records.runs import RunDir
from synth_ray.records.states import State
from synth_ray.runtime.adapters import AdapterBlob
from synth_ray.runtime.devices import EngineSpec

STEPS, STEP_S = 3, 1.0
TASK_APP = "grpo-crafter"


class NoEngine:
    """Nothing here needs one."""

    async def generate(self, requests: Sequence[GenerateRequest]) -> Sequence[Answer]:
        raise AssertionError

    async def spec(self) -> EngineSpec:
        raise PrerequisiteError("no engine is running")

    async def publish(self, blob: AdapterBlob) -> None:
        raise AssertionError


class PretendedCluster:
    """Every job writes what a real one writes, a step per second, and succeeds."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.stopped: set[str] = set()

    def submit(self, kind: str, config: Path, job_id: str) -> None:
        with Registry(self.home.state_db) as registry:
            registry.create_job(kind, job_id, job_id=job_id)
        threading.Thread(target=self._play, args=(kind, job_id), daemon=True).start()

    def stop(self, job_id: str) -> None:
        self.stopped.add(job_id)

    def _play(self, kind: str, job_id: str) -> None:
        files, run = JobFiles(self.home.jobs / job_id), RunDir.create(self.home.runs, job_id, {})
        run.start_attempt(job_id)
        with Registry(self.home.state_db) as registry, MetricsLog(run.metrics) as metrics:
            registry.set_job_status(job_id, State.RUNNING)
            files.event("connect", note="the cluster")
            for step in range(STEPS):
                time.sleep(STEP_S)
                metrics.append(step if kind == "rl" else step + 1, {"reward/mean": step / 16, "loss": 1 / (step + 1)})
                files.event("train", step + 1, STEPS, f"step {step + 1}")
            model = f"{'rl' if kind == 'rl' else 'fft'}:Qwen/Qwen3-0.6B:{job_id}"
            registry.add_model(Model(model, "Qwen/Qwen3-0.6B", "full", "/models", "digest", job_id))
            run.set_state(State.RUNNING)
            run.set_state(State.SUCCEEDED)
            files.succeeded({"model": model})
            registry.set_job_status(job_id, State.SUCCEEDED, result={"model": model})


async def no_engine(requests: Sequence[GenerateRequest]) -> Sequence[Answer]:
    """There is none."""
    raise AssertionError


async def main() -> None:
    home = Home(Path(os.environ["SYNTH_RAY_HOME"]), Path(os.environ["SYNTH_RAY_HOME"]))
    keys = KeyRing(gateway_keys(None))
    gateway = create_app(Gateway(home, NoEngine()), Backend(home, PretendedCluster(home), lambda: [TASK_APP]), keys)
    task_app = create_task_app(TaskHost(TASK_APP, no_engine), keys)
    app = Starlette(routes=[Mount(f"/{TASK_APP}", task_app), Mount("/", gateway)])
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.05)
    print(json.dumps({"url": f"http://127.0.0.1:{listener.getsockname()[1]}"}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.should_exit = True
    await serving


if __name__ == "__main__":
    asyncio.run(main())
