"""GPU configs on a cluster with two logical GPUs: the preflight passes, engine and trainer get different ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from synth_ray.core.paths import find_home
from synth_ray.core.secrets import RAY_TOKEN, ensure_env_file
from synth_ray.runtime import cluster
from synth_ray.runtime.job_client import JobClient
from tests.pipeline.conftest import CONFIGS, free_port

pytestmark = pytest.mark.timeout(180)


def test_engine_and_trainer_get_different_gpus(tmp_path: Path, env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTH_RAY_HOME", str(tmp_path))
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    home = find_home()
    # The token of the other tests' cluster: a process reads its token once.
    token = ensure_env_file(env_file)[RAY_TOKEN]
    local = cluster.start(home, token, free_port(), num_gpus=2)
    try:
        jobs = JobClient(local, home, env_file)
        for config in sorted((CONFIGS / "crafter").glob("rl_qwen3_4b_*.toml"))[:1]:
            placed = jobs.wait(jobs.submit("gpu_probe", [config], module="tests.pipeline.gpu_probe"))
            assert len(placed["engine"]) == len(placed["trainer"]) == 1
            assert placed["engine"] != placed["trainer"]
    finally:
        cluster.stop(home)
