"""A task of the user's own, by import path, through the whole pipeline: the files of docs/new-environment.md."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from synth_ray.core.errors import ConflictError
from synth_ray.core.paths import Home
from synth_ray.core.secrets import ENVIRONMENT_KEY, read_env_file
from synth_ray.records.filter_run import run_filter
from synth_ray.records.rollouts import mean_reward
from synth_ray.runtime.job_client import JobClient

pytestmark = [pytest.mark.long, pytest.mark.pipeline, pytest.mark.timeout(480)]

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "new-environment"
STEPS = 2


@pytest.fixture(scope="module")
def file(home: Home) -> Iterator[Path]:
    copy = home.project / "fetch_env.py"
    shutil.copy(EXAMPLE / "fetch_env.py", copy)
    yield copy
    copy.unlink()


def test_collect_tune_train_and_serve(file: Path, jobs: JobClient, home: Home, env_file: Path) -> None:
    deploy = ['app_id="fetch_env:FetchTask"', "vllm.max_lora_rank=8"]
    url = jobs.wait(jobs.submit("deploy", [], deploy))["url"]
    assert url.endswith("/fetch_env.FetchTask")
    collected = jobs.wait(jobs.submit("eval", [EXAMPLE / "collect.toml"], ['eval.seeds="1000-1059"']))
    assert 0.3 < collected["mean"] < 2
    assert "crafter_score" not in collected
    assert run_filter([EXAMPLE / "filter.toml"], [], home.project)["episodes_kept"] == 60
    tuned = jobs.wait(jobs.submit("sft", [EXAMPLE / "sft.toml"]))
    small = [f"training.iterations={STEPS}", "training.batch_size=2", "training.group_size=4"]
    trained = jobs.wait(jobs.submit("rl", [EXAMPLE / "rl.toml"], [f'model.source="{tuned["model"]}"', *small], "fetch"))
    folder = Path(trained["run_dir"]) / "rollouts"
    assert trained["batch_rewards"] == [mean_reward(folder / f"step={step:06d}.parquet") for step in range(STEPS)]
    played = jobs.wait(
        jobs.submit("eval", [EXAMPLE / "eval.toml"], [f'eval.model="{trained["model"]}"', 'eval.seeds="5000-5007"'])
    )
    assert (played["n"], played["errors"]) == (8, 0)

    key = read_env_file(env_file)[ENVIRONMENT_KEY]
    assert [_rollout(url, key, name) for name in (None, "fetch_env:FetchTask", "os:system")] == [200, 200, 404]

    file.write_text(file.read_text() + "\n")
    one = ['eval.seeds="1000"']
    with pytest.raises(ConflictError, match="another version of its file"):
        jobs.wait(jobs.submit("eval", [EXAMPLE / "collect.toml"], one))
    jobs.wait(jobs.submit("deploy", [], deploy))
    assert jobs.wait(jobs.submit("eval", [EXAMPLE / "collect.toml"], one))["n"] == 1


def _rollout(url: str, key: str, name: str | None) -> int:
    body = {"run_id": f"r-{name}", "env": {"env_name": name}, "policy": {"config": {"provider": "expert"}}}
    body |= {"ops": [], "mode": "eval"}
    headers = {"Content-Type": "application/json", "X-API-Key": key}
    request = urllib.request.Request(f"{url}/rollout", data=json.dumps(body).encode(), headers=headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
