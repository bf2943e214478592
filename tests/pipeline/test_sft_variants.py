"""Fine-tuning through Ray Train: adapters, two workers, resumption, errors that end the job at once."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from synth_ray.core.errors import ConflictError, CorruptError, PrerequisiteError, SynthRayError
from synth_ray.core.paths import Home
from synth_ray.records.metrics import last_by_step
from synth_ray.records.publish import verify
from synth_ray.records.registry import Registry
from synth_ray.records.states import State
from synth_ray.runtime.job_client import JobClient
from tests.pipeline.conftest import CONFIGS

pytestmark = [pytest.mark.long, pytest.mark.pipeline, pytest.mark.timeout(480)]

SFT = CONFIGS / "quickstart" / "sft_weak.toml"
EVAL = CONFIGS / "quickstart" / "eval.toml"
RL = CONFIGS / "quickstart" / "rl_weak.toml"


@pytest.fixture(scope="module")
def data(home: Home) -> Path:
    path = home.data / "variants.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    reply = {"role": "assistant", "content": "stone"}
    lines = [{"messages": [{"role": "user", "content": "wood " * (1 + n % 9)}, reply]} for n in range(200)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def train(jobs: JobClient, data: Path, *sets: str, name: str = "") -> dict[str, Any]:
    return jobs.wait(jobs.submit("sft", [SFT], [f'job.data="{data}"', *sets], name))


def test_an_adapter_is_evaluated_and_is_a_start_of_rl(jobs: JobClient, home: Home, data: Path) -> None:
    tuned = train(jobs, data, 'algorithm.variety="lora"', "lora.r=8")
    assert tuned["model"].startswith("peft:crafter-tiny:job_")
    verify(Path(tuned["path"]))
    sets = ['eval.seeds="100000-100001"', f'eval.model="{tuned["model"]}"']
    assert jobs.wait(jobs.submit("eval", [EVAL], sets))["errors"] == 0
    small = ["training.iterations=1", "training.batch_size=2", "training.group_size=2"]
    started = jobs.wait(jobs.submit("rl", [RL], [f'model.source="{tuned["model"]}"', *small]))
    assert started["model"].startswith("rl:crafter-tiny:job_")
    with Registry(home.state_db) as registry:
        assert [model.model_id for model in registry.lineage(started["model"])] == [started["model"], tuned["model"]]


def test_two_workers_make_the_steps_of_one(jobs: JobClient, data: Path) -> None:
    one = train(jobs, data, "data.eval_fraction=0.2")
    two = train(jobs, data, "data.eval_fraction=0.2", "compute.topology.cpu_workers=2")
    assert (two["steps"], two["tokens"]) == (one["steps"], one["tokens"])
    assert two["eval_loss"] == pytest.approx(one["eval_loss"], abs=1e-2)


def test_a_stopped_run_goes_on_under_its_name(jobs: JobClient, home: Home, data: Path) -> None:
    sets = ["hyperparameters.n_epochs=200", "hyperparameters.checkpoint_steps=5"]
    stopped = jobs.submit("sft", [SFT], [f'job.data="{data}"', *sets], "stopped")
    checkpoints, deadline = home.runs / "stopped" / "checkpoints", time.monotonic() + 120
    while not list(checkpoints.glob("step_*/manifest.json")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    jobs.stop(stopped)
    with pytest.raises(SynthRayError):
        jobs.wait(stopped)
    with Registry(home.state_db) as registry:
        assert registry.job(stopped.job_id).status is State.CANCELLED
    with pytest.raises(ConflictError, match="n_epochs"):
        train(jobs, data, name="stopped")
    resumed = train(jobs, data, *sets, name="stopped")
    whole = train(jobs, data, *sets)
    assert resumed["digest"] == whole["digest"]
    rows = last_by_step(home.runs / "stopped" / "metrics.jsonl")
    assert list(rows) == list(range(1, int(resumed["steps"]) + 1))


def test_what_would_fail_again_is_not_tried_again(jobs: JobClient, home: Home, data: Path) -> None:
    with pytest.raises(PrerequisiteError, match="needs a GPU"):
        train(jobs, data, 'algorithm.variety="qlora"')
    bad = data.with_name("bad.jsonl")
    bad.write_text('{"messages": []}\n')
    with pytest.raises(CorruptError, match="line 1"):
        train(jobs, bad)
