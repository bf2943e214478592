"""The command line from outside: speed, imports, messages, exit codes."""

import contextlib
import fcntl
import json
import os
import pty
import socket
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from synth_ray.cli import main as cli_main
from synth_ray.cli import modal_serve_verb
from synth_ray.core.secrets import read_env_file
from tests.quickness import quickest

ROOT = Path(__file__).resolve().parents[2]
QUICK = ROOT / "configs" / "quickstart"


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
