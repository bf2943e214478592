"""Every command of the two walkthroughs for synth-ai, typed with `synth-ray` in place of `uvx synth-ai`."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from synth_ray.cli import cluster_verbs, verbs
from synth_ray.cli import main as cli_main
from tests.unit.test_playbook import parsed

BLOG = "examples/blog_posts/warming_up_to_rl/configs"
STEPS = "examples/multi_step/configs"
MODAL = "deploy grpo-crafter --runtime modal --modal-mode serve --name crafter-blogpost --env-file .env"
UVICORN = "deploy grpo-crafter --runtime uvicorn --port 8001 --trace traces/v3 --env-file .env"
MODAL_SERVE = "modal-serve grpo-crafter --env-file examples/warming_up_to_rl/.env --name grpo-crafter-task-app"
SEED_COMMANDS = [
    "setup",
    MODAL,
    UVICORN,
    f"eval grpo-crafter --config {BLOG}/eval_groq_qwen32b.toml --trace-db traces/v3/crafter_blog.db",
    f"eval grpo-crafter --config {BLOG}/eval_openai_gpt_oss_120b.toml --trace-db traces/v3/crafter_blog.db",
    f"filter --config {BLOG}/filter_high_reward_dataset.toml",
    f"train --type sft --config {BLOG}/train_sft_qwen4b.toml --env-file .env --poll",
    "status models",
    f"eval grpo-crafter --config {BLOG}/eval_ft_qwen4b.toml --trace-db traces/v3/crafter_blog.db",
    f"train --type rl --config {BLOG}/train_rl_from_sft.toml --env-file .env --poll",
    "status jobs",
    "files upload ft_data/crafter_blog_high_reward.jsonl",
    MODAL_SERVE,
    f"train --type rl --config {STEPS}/crafter_rl_outcome.toml --run-name crafter-rl-outcome --no-poll",
    f"train --type rl --config {STEPS}/crafter_rl_stepwise_simple.toml --run-name crafter-rl-stepwise-simple --no-poll",
    f"train --type rl --config {STEPS}/crafter_rl_stepwise_shaped.toml --run-name crafter-rl-stepwise-shaped --no-poll",
    "train logs --run-name crafter-rl-outcome",
]
URL = "http://127.0.0.1:8000/grpo-crafter"


@pytest.mark.parametrize("command", SEED_COMMANDS)
def test_every_option_is_accepted(command: str) -> None:
    parsed(shlex.split(command))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What a deployment asks for; there is a cluster on port 8000, or so it seems."""
    monkeypatch.setenv("SYNTH_RAY_HOME", str(tmp_path))
    seen: dict[str, Any] = {}
    cluster = SimpleNamespace(http_port=8000, address="127.0.0.1:1", dashboard="http://127.0.0.1:2")

    def run(jobs: object, kind: str, configs: object, sets: list[str], **_: object) -> dict[str, Any]:
        seen.update(kind=kind, sets=sets)
        return {"url": URL, "apps": ["grpo-crafter"]}

    def locally(*arguments: object) -> None:
        seen["local"] = arguments
        raise SystemExit(0)

    monkeypatch.setattr(verbs, "ensure_cluster", lambda home, env_file, port: (cluster, False))
    monkeypatch.setattr(verbs, "client", lambda home, env_file: seen.update(env_file=env_file))
    monkeypatch.setattr(verbs, "run", run)
    monkeypatch.setattr(cluster_verbs, "serve_locally", locally)
    return seen


def typed(command: str) -> Result:
    return CliRunner().invoke(cli_main.cli, shlex.split(command))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            MODAL,
            ["nothing goes to Modal", "--modal-mode serve has no meaning here", "crafter-blogpost is only a label"],
        ),
        (MODAL_SERVE, ["nothing goes to Modal", "grpo-crafter-task-app is only a label"]),
        ("deploy grpo-crafter --runtime ray", ["Ray Serve on the local Ray cluster"]),
    ],
)
def test_what_is_for_modal_deploys_on_ray_and_says_so(calls: dict[str, Any], command: str, words: list[str]) -> None:
    result = typed(command)
    assert result.exit_code == 0, result.output
    assert (result.stdout, calls["kind"]) == (f"{URL}\n", "deploy")
    assert all(word in result.stderr for word in words), result.stderr


def test_uvicorn_takes_a_label_and_either_place_for_rollouts(calls: dict[str, Any], tmp_path: Path) -> None:
    result = typed(f"{UVICORN} --name mine")
    assert "mine is only a label" in result.stderr
    assert calls["local"] == ("grpo-crafter", Path(".env"), 8001, tmp_path / "traces/v3/rollouts.db", False)
    typed("deploy --runtime uvicorn --trace-db my.db")
    assert calls["local"][3] == tmp_path / "my.db"


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ("deploy --runtime modal --trace kept", "--runtime uvicorn"),
        ("deploy --trace-db kept.db", "--runtime uvicorn"),
        ("deploy --runtime uvicorn --trace kept --trace-db kept.db", "both"),
    ],
)
def test_a_place_for_rollouts_that_would_stay_empty_is_refused(calls: dict[str, Any], command: str, word: str) -> None:
    error = typed(command).exception
    assert word in str(error)
    assert calls == {}


@pytest.mark.parametrize("command", ["deploy --port 8010", "modal-serve --port 8010", "up --port 8010"])
def test_a_port_that_comes_too_late_is_named(calls: dict[str, Any], command: str) -> None:
    assert "--port 8010 is ignored: the running cluster serves HTTP on port 8000" in typed(command).stderr
    assert "ignored" not in typed(command.split()[0]).stderr
