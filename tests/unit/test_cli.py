"""The command line from outside: speed, imports, messages, exit codes."""

import ast
import contextlib
import fcntl
import json
import os
import pty
import re
import socket
import subprocess
import sys
import termios
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from click.testing import CliRunner

from synth_ray.cli import main as cli_main
from synth_ray.cli import modal_serve_verb, verbs
from synth_ray.core.secrets import read_env_file
from tests.quickness import quickest
from tests.unit.test_playbook import parsed

ROOT = Path(__file__).resolve().parents[2]
QUICK = ROOT / "configs" / "quickstart"


STEPWISE = ["--set", "training.step_rewards_enabled=true", "--set", "training.step_rewards_strategy=shaped", "--set"]
JUDGED = [
    *("--set", "judge.enabled=true", "--set", "judge.options.provider=groq", "--set", "judge.options.model=x"),
    *("--set", "judge.options.rubric_id=crafter", "--set", "judge.reward_blend.event=1", "--set"),
]
EVAL_JUDGED = ["--set", "eval.judge.provider=groq", "--set", "eval.judge.model=x", "--set"]


def cli(*arguments: str, home: Path, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SYNTH_RAY_HOME": str(home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "synth_ray.cli.main", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout_s, env=environment, cwd=home, check=False
    )


def test_help_is_quick_and_light(tmp_path: Path) -> None:
    def shows_help() -> None:
        assert cli("--help", home=tmp_path).returncode == 0

    assert quickest(shows_help, 0.4) <= 0.4
    code = (
        "import sys; from synth_ray.cli import main;"
        "print([name for name in ('torch', 'ray', 'transformers', 'pyarrow', 'pydantic') if name in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train", "rl", "-c", "{bad}"], 2, ["training.lerning_rate", "did you mean 'learning_rate'?"]),
        (["train", "rl", "-c", "missing.toml"], 4, ["missing.toml does not exist"]),
        (["train", "-c", "x.toml"], 2, ["--type sft or --type rl"]),
        (["train", "sft", "-c", "{sft}"], 3, ["no local cluster is running", "synth-ray deploy"]),
        (["train", "rl", "-c", "{rl}", "--run-name", "../up"], 2, ["not a usable name"]),
        (["eval", "-c", "{eval}", "--set", "eval.seeds=5-1"], 2, ["eval.seeds", "ascending"]),
        (["filter", "-c", "{filter}"], 4, ["trace database"]),
        (["logs", "job_nothing"], 4, ["job_nothing"]),
        (["replay", "best"], 4, ["no trace database", "synth-ray eval"]),
        (["replay", "best", "--out", "x.mp4"], 2, ["x.mp4", ".gif"]),
        (["traces", "list"], 4, ["no trace database"]),
        (["evall"], 2, ["evall"]),
    ],
)
def test_wrong_input_gets_one_clear_message(tmp_path: Path, arguments: list[str], code: int, words: list[str]) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text('[model]\nbase = "crafter-tiny"\n[training]\nlerning_rate = 1\n')
    names = {
        "bad": bad,
        "sft": QUICK / "sft_weak.toml",
        "rl": QUICK / "rl_weak.toml",
        "eval": QUICK / "eval.toml",
        "filter": QUICK / "filter_weak.toml",
    }
    result = cli(*(argument.format(**names) for argument in arguments), home=tmp_path)
    assert result.returncode == code, result.stderr
    assert all(word in result.stderr for word in words), result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_errors_as_json(tmp_path: Path) -> None:
    result = cli("train", "rl", "--json", "-c", "missing.toml", home=tmp_path)
    error = json.loads(result.stdout)["error"]
    assert result.returncode == 4
    assert error["kind"] == "not_found"
    assert error["retryable"] is False


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = cli("quickstart", "--port", str(port), home=tmp_path)
    assert result.returncode == 3
    assert f"port {port} is in use" in result.stderr
    assert "--port" in result.stderr
    assert not (tmp_path / "cluster.json").exists()


def test_dry_run_prints_the_resolved_config(tmp_path: Path) -> None:
    result = cli(
        "train", "rl", "-c", str(QUICK / "rl_weak.toml"), "--set", "training.seed=4", "--dry-run", home=tmp_path
    )
    resolved = json.loads(result.stdout)
    assert resolved["config"]["training"]["seed"] == 4
    assert resolved["sources"]["training.seed"] == "--set"


@pytest.mark.parametrize("verb", [("train", "rl", "-c", "rl_weak.toml"), ("eval", "-c", "collect_weak.toml")])
def test_a_dry_run_with_json_has_the_envelope_of_every_answer(tmp_path: Path, verb: tuple[str, ...]) -> None:
    *words, file = verb
    plain, answer = (
        json.loads(cli(*words, str(QUICK / file), "--dry-run", *more, home=tmp_path).stdout)
        for more in ((), ("--json",))
    )
    assert answer.keys() == {"schema", "as_of", "data"}
    assert (answer["schema"], answer["data"]) == ("synth-ray/dry_run/1", plain)
    assert plain.keys() == {"config", "sha256", "sources"}


def test_setup_writes_private_keys_and_keeps_them(tmp_path: Path) -> None:
    assert cli("setup", home=tmp_path).returncode == 0
    written = (tmp_path / ".env").read_text()
    assert cli("setup", "--yes", home=tmp_path).returncode == 0
    assert (tmp_path / ".env").read_text() == written
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600


def test_setup_asks_on_a_terminal_and_never_shows_what_was_typed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "synth_ray.cli.main", "setup"]
    names = ("GROQ_API_KEY", "OPENAI_API_KEY")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    parent, child = pty.openpty()
    process = subprocess.Popen(
        command,
        stdin=child,
        stdout=child,
        stderr=child,
        cwd=tmp_path,
        env={**environment, "SYNTH_RAY_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(child)
    seen = b""
    for prompt, typed in ((b"GROQ_API_KEY for", b"gsk-secret\n"), (b"OPENAI_API_KEY for", b"\n")):
        while prompt not in seen or b"(Enter to skip)" not in seen.rpartition(prompt)[2]:
            seen += os.read(parent, 1000)
        time.sleep(0.2)  # until the echo is off
        os.write(parent, typed)
    with contextlib.suppress(OSError):  # the other side has closed
        while chunk := os.read(parent, 1000):
            seen += chunk
    assert process.wait(20) == 0
    os.close(parent)
    written = (tmp_path / ".env").read_text()
    assert "GROQ_API_KEY=gsk-secret\n" in written
    assert "OPENAI_API_KEY" not in written
    assert b"gsk-secret" not in seen
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600


def test_the_example_env_file_names_what_setup_writes(checkout: Path) -> None:
    names = set(read_env_file(checkout / ".env.example"))
    assert {"ENVIRONMENT_API_KEY", "RAY_AUTH_TOKEN", "GROQ_API_KEY", "OPENAI_API_KEY"} <= names
    assert set(read_env_file(checkout / ".env.example").values()) == {""}


def test_modal_serve_is_deploy_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {}
    monkeypatch.setattr(modal_serve_verb.deploy, "callback", lambda **values: given.update(values))
    arguments = ["modal-serve", "grpo-crafter", "--env-file", "keys.env", "--name", "my-app"]
    result = CliRunner().invoke(cli_main.cli, arguments)
    assert result.exit_code == 0, result.output
    assert "nothing goes to Modal" in result.stderr
    assert (given["app_id"], given["env_file"], given["port"]) == ("grpo-crafter", Path("keys.env"), 8000)


def test_what_a_job_prints_goes_into_its_folder(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys; from pathlib import Path; from synth_ray.records.job_files import JobFiles;"
        f"JobFiles(Path({str(tmp_path)!r})).take_output(); print('out'); sys.stdout.flush();"
        "subprocess.run(['echo', 'child']); os.write(2, b'err'); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout == f"printing into {tmp_path / 'log.txt'}\n"
    assert (tmp_path / "log.txt").read_text() == "out\nchild\nerr"
    assert (tmp_path / "log.txt").stat().st_mode & 0o777 == 0o600


def test_down_and_status_without_anything(tmp_path: Path) -> None:
    assert "nothing was running" in cli("down", home=tmp_path).stderr
    assert cli("status", "jobs", home=tmp_path).returncode == 0
    assert json.loads(cli("status", "models", "--json", home=tmp_path).stdout)["data"] == []


_NOT_IN_THE_FILE = {
    "SYNTH_RAY_HOME": "read from the process environment, before any file is",
    "SYNTH_RAY_CLUSTER": "the mark of a cluster's processes",
}


def test_the_example_env_file_names_every_key_that_is_read(checkout: Path) -> None:
    name = re.compile(r"SYNTH_RAY_[A-Z_]+|[A-Z]+_API_KEY(_ALIASES)?|RAY_AUTH_TOKEN")
    files = [file for top in ("synth_ray", "envs", "serve", "jobs") for file in (checkout / top).rglob("*.py")]
    constants = {
        str(node.value)
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    read = {text for text in constants if name.fullmatch(text)} - set(_NOT_IN_THE_FILE)
    assert len(read) >= 8
    assert read == set(read_env_file(checkout / ".env.example"))


@pytest.mark.parametrize("kind", ["rl", "sft", "eval"])
def test_what_is_stopped_goes_on_with_the_command_that_is_printed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Jobs:
        def submit(self, *_: object, **__: object) -> SimpleNamespace:
            return SimpleNamespace(job_id="job_1", kind=kind)

        def wait(self, *_: object) -> None:
            raise KeyboardInterrupt

        def stop(self, job: object) -> None:
            (tmp_path / "runs" / "mine").mkdir(parents=True, exist_ok=True)

    monkeypatch.setenv("SYNTH_RAY_HOME", str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        verbs.run(cast(Any, Jobs()), kind, [], run_name="mine")
    hint = capsys.readouterr().err.partition("go on with: synth-ray ")[2].split()
    context = parsed(hint)
    assert context.params["resume"] == "mine"
    assert context.params.get("type_", kind) == kind


def test_a_training_that_had_not_begun_is_not_to_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTH_RAY_HOME", str(tmp_path))
    assert verbs._going_on("rl", "job_1") == ""


def test_a_model_is_named_by_its_letters(tmp_path: Path) -> None:
    result = cli("eval", "-c", str(QUICK / "eval.toml"), "--model", "a\\b", "--dry-run", home=tmp_path)
    assert json.loads(result.stdout)["config"]["eval"]["model"] == "a\\b", result.stderr
    data = tmp_path / "\U0001f600.jsonl"
    data.write_text("")
    given = ("--dataset", data.name, "--dry-run")
    result = cli("train", "--type", "sft", "-c", str(QUICK / "sft_weak.toml"), *given, home=tmp_path)
    assert json.loads(result.stdout)["config"]["job"]["data"] == str(data), result.stderr


def test_concurrency_and_dataset_are_options(tmp_path: Path) -> None:
    result = cli("eval", "-c", str(QUICK / "eval.toml"), "--concurrency", "3", "--dry-run", home=tmp_path)
    assert json.loads(result.stdout)["config"]["eval"]["concurrency"] == 3
    (tmp_path / "mine.jsonl").write_text("")
    for text in ('[job]\nmodel = "crafter-tiny"\n', '[job]\ndata_path = "other.jsonl"\n', '[job]\ndata = "a"\n'):
        (tmp_path / "sft.toml").write_text(text)
        result = cli("train", "--type", "sft", "-c", "sft.toml", "--dataset", "mine.jsonl", "--dry-run", home=tmp_path)
        assert json.loads(result.stdout)["config"]["job"]["data"] == str(tmp_path / "mine.jsonl"), result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["eval", "-c", "{collect}", "--set", "eval.env_config.rendrer=x"], ["'rendrer'", "did you mean 'renderer'"]),
        (["eval", "-c", "{collect}", "--set", "eval.policy_config.teacher.nop=1"], ["teacher", "'nop'"]),
        (["eval", "-c", "{collect}", "--set", "eval.model=exprt"], ["unknown teacher 'exprt'", "'expert'"]),
        (["train", "rl", "-c", "{rl}", "--set", "rollout.env_config.length=no"], ["env config", "length"]),
        (["train", "rl", "-c", "{rl}", "--set", "training.step_rewards_strategy=nosuch"], ["strategy 'nosuch'"]),
        (["train", "rl", "-c", "{rl}", *STEPWISE, "training.step_rewards_weights.collect_gold=2"], ["'collect_gold'"]),
        (["train", "rl", "-c", "{rl}", *JUDGED, "judge.options.rubric_id=nosuch"], ["rubric 'nosuch'", "crafter"]),
        (["train", "rl", "-c", "{rl}", *JUDGED, "judge.options.event=false"], ["reward_blend.event is 1"]),
        (["eval", "-c", "{collect}", *EVAL_JUDGED, "eval.judge.rubric_id=nosuch"], ["rubric 'nosuch'"]),
    ],
)
def test_a_dry_run_checks_task_rewards_and_rubrics(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    names = {"collect": QUICK / "collect_weak.toml", "rl": QUICK / "rl_weak.toml"}
    result = cli(*(one.format(**names) for one in arguments), "--dry-run", home=tmp_path)
    assert (result.returncode, result.stdout) == (4 if "rubric" in words[0] else 2, "")
    assert all(word in result.stderr for word in words), result.stderr


def test_a_dry_run_needs_no_keys(tmp_path: Path) -> None:
    result = cli("train", "rl", "-c", str(QUICK / "rl_weak.toml"), *JUDGED[:-1], "--dry-run", home=tmp_path)
    assert (result.returncode, "Traceback" in result.stderr) == (0, False), result.stderr
