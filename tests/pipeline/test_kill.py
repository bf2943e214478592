"""kill -9 in the middle of a run: it ends well, or a second attempt goes on; nothing is lost or counted twice."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from synth_ray.core.errors import ConflictError, SynthRayError
from synth_ray.core.paths import Home
from synth_ray.records.registry import Registry
from synth_ray.records.rollouts import mean_reward, read_rollouts
from synth_ray.runtime.checkpoints import load_latest
from synth_ray.runtime.cluster import LocalCluster
from synth_ray.runtime.job_client import JobClient, Submitted
from tests.pipeline.conftest import CONFIGS

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

STEPS = 4
SETS = [
    'model.base="crafter-tiny"',
    f"training.iterations={STEPS}",
    "training.batch_size=2",
    "training.group_size=4",
]


@pytest.mark.parametrize("victim", ["ray::RayTrainWorker", "VLLM::EngineCore", "ray::ServeReplica:grpo-crafter"])
def test_a_run_survives_the_loss_of(
    victim: str, jobs: JobClient, home: Home, local: LocalCluster, tmp_path: Path
) -> None:
    job = jobs.submit("rl", [sourceless(tmp_path)], SETS)
    until(lambda: trained(job) >= 1, 300)
    kill(local, victim)
    check(jobs.wait(job), home)


@pytest.mark.parametrize("ending", ["stop", "kill the coordinator", "kill the driver"])
def test_a_run_that_ended_early_goes_on_where_it_was(
    ending: str, jobs: JobClient, home: Home, local: LocalCluster, tmp_path: Path
) -> None:
    config, name = sourceless(tmp_path), f"resumed-{ending.replace(' ', '-')}"
    first = jobs.submit("rl", [config], SETS, name)
    until(lambda: trained(first) >= 2, 300)
    if ending == "stop":
        jobs.stop(first)
    else:
        kill(local, "ray::CoordinatorActor" if "coordinator" in ending else f"{sys.executable} -m jobs.rl")
    with pytest.raises(SynthRayError):
        jobs.wait(first)
    published = sorted((home.runs / name / "rollouts").glob("step=00000[01].parquet"))
    before = [path.stat().st_mtime_ns for path in published]
    with pytest.raises(ConflictError) as refused:
        jobs.wait(jobs.submit("rl", [config], SETS, name))
    assert f"--resume {name}" in refused.value.hint
    check(jobs.wait(jobs.submit("rl", [config], SETS, name, resume=True)), home)
    assert [path.stat().st_mtime_ns for path in published] == before, "what was trained is not played again"


def sourceless(folder: Path) -> Path:
    """The quickstart's config without its source, so that a test can start from the bare model."""
    config = folder / "rl.toml"
    text = (CONFIGS / "quickstart" / "rl_weak.toml").read_text()
    config.write_text("\n".join(line for line in text.splitlines() if not line.startswith("source")))
    return config


def check(result: dict[str, Any], home: Home) -> None:
    """Rewards, files, checkpoint, metrics and registry of a finished run agree."""
    folder = Path(result["run_dir"]) / "rollouts"
    files = [folder / f"step={step:06d}.parquet" for step in range(STEPS)]
    assert result["batch_rewards"] == [mean_reward(path) for path in files]
    assert all(len({row.trajectory_id for row in read_rollouts(path)}) == 8 for path in files)
    latest = load_latest(Path(result["run_dir"]))
    assert latest is not None
    assert (latest.step, latest.digest) == (STEPS - 1, result["digest"])
    lines = (Path(result["run_dir"]) / "metrics.jsonl").read_text().splitlines()
    assert sorted({json.loads(line)["step"] for line in lines}) == list(range(STEPS))
    with Registry(home.state_db, read_only=True) as registry:
        assert registry.model(result["model"]).digest == result["digest"]


def trained(job: Submitted) -> int:
    event: dict[str, Any] = job.files.last_event() or {}
    assert job.files.result() is None, job.files.result()
    return int(event["done"]) if event.get("stage") == "train" else 0


def kill(local: LocalCluster, name: str) -> None:
    """Kills the cluster's process of this title; its id comes from the cluster's own list, never from elsewhere."""
    found = [process for process in local.processes() if title(process).startswith(name)]
    assert found, name
    for process in found:
        os.kill(process.pid, signal.SIGKILL)


def title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def until(probe: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not probe():
        assert time.monotonic() < deadline
        time.sleep(0.2)
