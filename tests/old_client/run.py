"""Drives our task app with the unmodified old client from the package index: its SDK and validators, `eval`, `smoke`.

    python tests/old_client/run.py VENV_DIR

makes VENV_DIR-VERSION for each version below (once), starts our task app, and exits 0 if every check passed.
"""

import json
import os
import secrets
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

HERE = Path(__file__).parent
CHECKOUT = HERE.parent.parent
SDK_VERSION, SMOKE_VERSION = "0.2.17", "0.2.19"
TIMEOUT_S = 300.0
EVAL = """
[eval]
app_id = "grpo-crafter"
model = "fake"
seeds = [0, 1]
max_turns = 3
env_name = "crafter"
policy_name = "crafter-react"
trace_format = "structured"
return_trace = true
ops = ["agent", "env", "agent", "env", "agent", "env"]

[eval.policy_config]
provider = "openai"
inference_url = "{model_url}"
max_llm_calls = 3
"""


def client_env(folder: Path, version: str) -> Path:
    """The interpreter's folder of an environment that holds that version of the old client."""
    home = folder.with_name(f"{folder.name}-{version}")
    if not (home / ".complete").exists():
        venv.create(home, with_pip=True, clear=True)
        pip = [str(home / "bin/pip"), "install", "--quiet"]
        subprocess.run([*pip, "-r", str(HERE / "requirements.txt")], check=True)
        subprocess.run([*pip, "--no-deps", f"synth-ai=={version}"], check=True)
        (home / ".complete").touch()
    return home / "bin"


def run(name: str, command: list[str], folder: Path, environ: dict[str, str], must_say: str = "") -> bool:
    """Whether the command succeeds and says what it must; what it said is shown if not."""
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=TIMEOUT_S)
    passed = done.returncode == 0 and must_say in done.stdout
    print(f"{'ok   ' if passed else 'FAIL '} {name}")
    if not passed:
        print(done.stdout[-6000:], done.stderr[-3000:])
    elif not must_say:
        print("".join(f"        {line}\n" for line in done.stdout.splitlines() if line.startswith("ok ")), end="")
    return passed


def main() -> int:
    sdk = client_env(Path(sys.argv[1]).resolve(), SDK_VERSION)
    smoke = client_env(Path(sys.argv[1]).resolve(), SMOKE_VERSION)
    key = secrets.token_urlsafe(24)
    environ = {"PATH": os.environ["PATH"], "ENVIRONMENT_API_KEY": key, "CI": "true", "SYNTH_SILENCE_EXPERIMENTAL": "1"}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        environ["HOME"] = scratch
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.old_client.task_app_server"],
            cwd=CHECKOUT,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert server.stdin and server.stdout
        try:
            at = json.loads(server.stdout.readline())
            (folder / ".env").write_text(f"ENVIRONMENT_API_KEY={key}\n")
            (folder / "eval.toml").write_text(EVAL.format(**at))
            verbs = ["--url", at["url"], "--env-file", ".env"]
            results = [
                run(
                    f"{SDK_VERSION} SDK and validators",
                    [str(sdk / "python"), str(HERE / "drive_client.py"), at["url"], at["model_url"]],
                    folder,
                    environ,
                ),
                run(
                    f"{SDK_VERSION} eval",
                    [str(sdk / "synth-ai"), "eval", "grpo-crafter", "--config", "eval.toml", *verbs],
                    folder,
                    environ,
                    "Eval complete: 2 ok, 0 failed",
                ),
                run(
                    f"{SMOKE_VERSION} smoke",
                    [
                        *(str(smoke / "synth-ai"), "smoke", *verbs, "--return-trace"),
                        *("--mock-port", str(at["smoke_port"]), "--rollouts", "2", "--group-size", "2"),
                    ],
                    folder,
                    environ,
                    "successes=4/4 total_steps=12 v3_traces=4/4",
                ),
            ]
        finally:
            server.stdin.close()
            server.wait(timeout=30)
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
