"""The whole pipeline, small, on the real parts: Ray, Serve, vLLM, Ray Train, PEFT. The tests share one run."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from synth_ray.core.errors import ConflictError, NotFoundError, PrerequisiteError
from synth_ray.core.hashing import sha256_file
from synth_ray.core.paths import Home
from synth_ray.core.secrets import ENVIRONMENT_KEY, read_env_file
from synth_ray.learn.reference import reference_logprobs
from synth_ray.records.filter_run import run_filter
from synth_ray.records.publish import verify
from synth_ray.records.registry import Registry
from synth_ray.records.rollouts import mean_reward, read_rollouts
from synth_ray.records.states import State
from synth_ray.records.traces import SessionQuery, TraceDB
from synth_ray.runtime.cluster import LocalCluster
from synth_ray.runtime.job_client import JobClient
from tests.pipeline.conftest import CONFIGS

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(480)]

QUICK = CONFIGS / "quickstart"
UNCONFINED = "ray::ServeReplica"  # Ray binds their internal gRPC port to all interfaces, behind its token.
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
STEPS, GROUPS, GROUP_SIZE, EVAL_SEEDS = 3, 2, 4, 12


@dataclass(frozen=True)
class Ran:
    """What the stages returned."""

    deployed: dict[str, Any]
    collected: dict[str, Any]
    sft: dict[str, Any]
    rl: dict[str, Any]
    before: dict[str, Any]
    after: dict[str, Any]
    trace_db: Path


@pytest.fixture(scope="module")
def ran(jobs: JobClient, home: Home) -> Ran:
    trace_db, data = home.traces / "pipeline.db", home.data / "pipeline.jsonl"
    db = f'eval.trace_db="{trace_db}"'
    deploying = jobs.submit("deploy", [QUICK / "deploy.toml"])
    collecting = jobs.submit("eval", [QUICK / "collect_weak.toml"], ['eval.seeds="200000-200059"', db])
    collected = jobs.wait(collecting)
    run_filter([QUICK / "filter_weak.toml"], [f'filter.db="{trace_db}"', f'filter.output="{data}"'], home.project)
    sft_sets = [f'job.data="{data}"', "hyperparameters.n_epochs=4"]
    sft = jobs.wait(jobs.submit("sft", [QUICK / "sft_weak.toml"], sft_sets))
    deployed = jobs.wait(deploying)
    last = 100_000 + EVAL_SEEDS - 1
    eval_sets = [f'eval.seeds="100000-{last}"', db]
    before = jobs.wait(jobs.submit("eval", [QUICK / "eval.toml"], [*eval_sets, f'eval.model="{sft["model"]}"']))
    rl_sets = [
        f'model.source="{sft["model"]}"',
        f"training.iterations={STEPS}",
        f"training.batch_size={GROUPS}",
        f"training.group_size={GROUP_SIZE}",
    ]
    rl = jobs.wait(jobs.submit("rl", [QUICK / "rl_weak.toml"], rl_sets, "pipeline-run"))
    after = jobs.wait(jobs.submit("eval", [QUICK / "eval.toml"], [*eval_sets, f'eval.model="{rl["model"]}"']))
    return Ran(deployed, collected, sft, rl, before, after, trace_db)


def test_batch_rewards_are_the_means_of_the_files(ran: Ran) -> None:
    folder = Path(ran.rl["run_dir"]) / "rollouts"
    recomputed = [mean_reward(folder / f"step={step:06d}.parquet") for step in range(STEPS)]
    assert ran.rl["batch_rewards"] == pytest.approx(recomputed, abs=0)
    rows = read_rollouts(folder / "step=000000.parquet")
    assert len(rows) == GROUPS * GROUP_SIZE
    assert statistics.fmean(len(row.achievements) for row in rows) == recomputed[0]


def test_every_turn_was_sampled_by_published_weights(ran: Ran, home: Home) -> None:
    run_dir = Path(ran.rl["run_dir"])
    run_id = json.loads((run_dir / "run.json").read_text())["run_id"]
    digests = {}
    for step in range(STEPS):
        for row in read_rollouts(run_dir / "rollouts" / f"step={step:06d}.parquet"):
            for turn in row.turns:
                assert turn.weights_name == (f"{run_id}@{step}" if step else "base")
                assert len(turn.completion_token_ids) == len(turn.per_token_logps) > 0
                digests.setdefault(turn.weights_name, set()).add(turn.weights_digest)
    assert all(len(found) == 1 for found in digests.values())
    assert digests["base"] == {ran.sft["digest"]}
    checkpoint = run_dir / "checkpoints" / f"step_{STEPS - 2:06d}"
    assert digests[f"{run_id}@{STEPS - 1}"] == {sha256_file(checkpoint / "adapter_model.safetensors")}


def test_the_evaluated_adapter_is_the_trained_one(ran: Ran, home: Home) -> None:
    adapter = Path(ran.rl["adapter"])
    verify(adapter)
    digest = sha256_file(adapter / "adapter_model.safetensors")
    assert digest == ran.rl["digest"]
    with TraceDB(ran.trace_db, read_only=True) as traces:
        query = SessionQuery(models=(ran.rl["model"],))
        turns = [turn for rollout in traces.rollouts(query) for turn in rollout.turns]
    assert turns
    assert {turn.reply.weights_digest for turn in turns} == {digest}


def test_engine_and_reference_agree_on_the_final_adapter(ran: Ran, home: Home) -> None:
    with TraceDB(ran.trace_db, read_only=True) as traces:
        query = SessionQuery(models=(ran.rl["model"],))
        replies = [turn.reply for rollout in traces.rollouts(query) for turn in rollout.turns]
    pairs = [(reply.prompt_ids, reply.token_ids) for reply in replies]
    expected = reference_logprobs(Path(ran.sft["path"]), Path(ran.rl["adapter"]), pairs, temperature=1.0)
    differences = [
        abs(float(ours) - float(theirs))
        for reply, row in zip(replies, expected, strict=True)
        for ours, theirs in zip(reply.logprobs, row, strict=True)
    ]
    mean, largest = statistics.fmean(differences), max(differences)
    print(f"engine against HF + PEFT: {len(differences)} tokens, mean |diff| {mean:.2e}, max {largest:.2e}")
    assert mean <= 1e-3
    assert largest <= 1e-2


def test_run_folder_is_complete(ran: Ran) -> None:
    run_dir = Path(ran.rl["run_dir"])
    resolved = json.loads((run_dir / "config.resolved.json").read_text())
    assert resolved["config"]["training"]["iterations"] == STEPS
    metrics = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == list(range(STEPS))
    assert all(line["optimizer_steps"] > 0 for line in metrics)
    assert all(abs(line["mismatch_kl/mean"]) < 1e-3 for line in metrics)
    assert json.loads((run_dir / "run.json").read_text())["state"] == "SUCCEEDED"


def test_registry_knows_jobs_and_lineage(ran: Ran, home: Home) -> None:
    with Registry(home.state_db, read_only=True) as registry:
        assert {job.status for job in registry.jobs()} == {State.SUCCEEDED}
        chain = registry.lineage(ran.rl["model"])
    assert [model.model_id for model in chain] == [ran.rl["model"], ran.sft["model"]]
    assert chain[-1].base == "crafter-tiny"


def test_task_app_refuses_calls_without_a_key(ran: Ran, env_file: Path) -> None:
    url = ran.deployed["url"]
    key = read_env_file(env_file)[ENVIRONMENT_KEY]
    assert _get(f"{url}/", None)[0] == 200
    refusals = [_get(f"{url}/health", None), _get(f"{url}/health", "wrong"), _get(f"{url}/nowhere", key[:15])]
    assert {status for status, _ in refusals} == {401}
    assert len({body for _, body in refusals}) == 1
    assert _get(f"{url}/health", key)[0] == 200
    body = {"run_id": "r", "env": {"seed": 3}, "policy": {"config": {"provider": "expert"}}, "ops": [], "mode": "eval"}
    status, answer = _get(f"{url}/rollout", key, body)
    assert status == 200
    assert json.loads(answer)["metrics"]["mean_return"] >= 1


def test_everything_listens_on_the_loopback_only(ran: Ran, local: LocalCluster) -> None:
    exposed = [
        (process.name(), connection.laddr)
        for process in local.processes()
        if not " ".join(process.cmdline()).startswith(UNCONFINED)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
        and connection.laddr.ip.removeprefix("::ffff:") not in ("127.0.0.1", "::1")
    ]
    assert exposed == []


def test_no_secret_in_arguments_or_environments(ran: Ran, local: LocalCluster, env_file: Path) -> None:
    secrets = list(read_env_file(env_file).values())
    for process in local.processes():
        text = " ".join([*process.cmdline(), *process.environ().values()])
        assert not any(secret in text for secret in secrets), process.name()


def test_ray_job_submit_runs_the_same_entry_point(ran: Ran, local: LocalCluster, home: Home, env_file: Path) -> None:
    root = CONFIGS.parent
    entry = [sys.executable, "-m", "jobs.eval", "--config", "configs/quickstart/collect_weak.toml"]
    entry += ["--set", "eval.seeds=7-9", "--set", 'eval.trace_db="traces/submitted.db"', "--env-file", str(env_file)]
    command = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", local.dashboard]
    command += ["--working-dir", str(root), "--", *entry]
    environment = {**os.environ, **local.client_env}
    del environment["RAY_ADDRESS"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with TraceDB(home.project / "traces" / "submitted.db", read_only=True) as traces:
        assert traces.count() == 3


def test_wrong_things_end_with_a_clear_error(ran: Ran, jobs: JobClient) -> None:
    with pytest.raises(NotFoundError, match="no model 'crafter-tny'"):
        jobs.wait(jobs.submit("eval", [QUICK / "eval.toml"], ['eval.model="crafter-tny"']))
    started = time.monotonic()
    with pytest.raises(PrerequisiteError, match=r"needs 2 GPU .* the cluster has 0"):
        jobs.wait(jobs.submit("rl", [CONFIGS / "crafter" / "rl_qwen3_4b_outcome.toml"]))
    assert time.monotonic() - started <= 30
    with pytest.raises(ConflictError, match=r"other \[vllm\] settings"):
        jobs.wait(jobs.submit("eval", [QUICK / "eval.toml"], ["vllm.max_num_seqs=7"]))


def test_an_engine_that_cannot_start_says_why(ran: Ran, jobs: JobClient) -> None:
    with pytest.raises(PrerequisiteError, match="the engine could not start"):
        jobs.wait(jobs.submit("deploy", [], ["vllm.max_model_len=100000"]))


def _get(url: str, key: str | None, body: Any = None) -> tuple[int, str]:
    headers = {"Content-Type": "application/json"} | ({"X-API-Key": key} if key else {})
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url, data=data, headers=headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
