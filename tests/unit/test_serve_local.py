"""The uvicorn runtime as a real process: quick, light, clear about what is wrong, and gone when it is told to."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from synth_ray.core.waiting import wait_for
from synth_ray.records.traces import TraceDB

ROOT = Path(__file__).resolve().parents[2]
READY_CPU_S = 3.0  # Starting is one thread that computes, so on an idle machine this is the time that it takes.
LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "synth_ray.cli.main", "deploy", *arguments]


def environment() -> dict[str, str]:
    own = ("ENVIRONMENT_API_KEY", "SYNTH_RAY_HOME")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    return kept | {"PYTHONPATH": str(ROOT)}


@contextmanager
def deployed(folder: Path, port: int, *more: str) -> Iterator[subprocess.Popen[str]]:
    arguments = command("grpo-crafter", "--runtime", "uvicorn", "--port", str(port), *more)
    with (folder / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=folder, env=environment()
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def fetch(url: str, body: Any = None, key: str = "") -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    headers = {"X-API-Key": key, "Content-Type": "application/json"}
    request = urllib.request.Request(url, data, headers)  # noqa: S310 - our own loopback
    try:
        with LOCAL.open(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def wait_until_it_answers(url: str) -> None:
    def answers() -> bool | None:
        try:
            return fetch(url)[0] == 200
        except OSError:
            return None

    assert wait_for("the task app", answers, timeout_s=60, interval_s=0.01)


def key_of(folder: Path) -> str:
    found = re.search(r"^ENVIRONMENT_API_KEY=(.+)$", (folder / ".env").read_text(), re.MULTILINE)
    assert found
    return found.group(1)


def rollout(run_id: str, seed: int = 1, **config: Any) -> dict[str, Any]:
    ops = ["agent", "env"] * 3
    policy = {"config": {"provider": "expert", **config}}
    return {"run_id": run_id, "env": {"seed": seed}, "policy": policy, "ops": ops, "mode": "eval"}


def test_deploy_answers_at_once_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with deployed(tmp_path, port) as process:
        wait_until_it_answers(f"{url}/")
        spent = psutil.Process(process.pid).cpu_times()
        assert spent.user + spent.system < READY_CPU_S
        assert process.stdout and process.stdout.readline() == f"{url}\n"
        assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
        key = key_of(tmp_path)
        assert fetch(f"{url}/rollout", rollout("a"))[0] == 401
        status, played = fetch(f"{url}/rollout", rollout("a"), key)
        assert (status, len(played["trajectories"][0]["steps"])) == (200, 3)
        assert fetch(f"{url}/rollout", rollout("a"), key) == (200, played)
        status, refused = fetch(f"{url}/rollout", rollout("a", seed=2), key)
        assert (status, refused["detail"]["error"]["code"]) == (409, "conflict")
        status, refused = fetch(f"{url}/rollout", rollout("b", max_llm_calls=5000), key)
        assert status == 422
        assert fetch(f"{url}/rollout", {"a": [[]]} | {"deep": json.loads("[" * 70 + "]" * 70)}, key)[0] == 422
        assert fetch(f"{url}/rollout", rollout("c", provider="engine"), key)[0] in (422, 503)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stdout.read() == ""
    told = (tmp_path / "stderr").read_text()
    assert "wrote .env (mode 0600)" in told
    assert "curl -s" in told
    assert key not in told
    assert "Traceback" not in told


def test_the_printed_curl_line_works_and_sigterm_ends_it(tmp_path: Path) -> None:
    port = free_port()
    with deployed(tmp_path, port, "--json", "--env-file", "my keys.env", "--trace", "kept") as process:
        assert process.stdout
        answer = json.loads(process.stdout.readline())
        assert answer["as_of"].endswith("Z")
        assert answer["data"] == {"url": f"http://127.0.0.1:{port}", "apps": ["grpo-crafter"]}
        line = next(one for one in (tmp_path / "stderr").read_text().splitlines() if one.startswith("curl"))
        said = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=tmp_path, check=True)
        assert json.loads(said.stdout)["run_id"] == "try-1"
        with TraceDB(tmp_path / "kept" / "rollouts.db", read_only=True) as traces:
            assert [(one.rollout_id, one.n_turns) for one in traces.sessions()] == [("try-1", 10)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
    assert "Traceback" not in (tmp_path / "stderr").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--port", "{taken}"], 3, ["port {taken}", "--port"]),
        (["--model", "crafter-tiny"], 2, ["no engine", "--model"]),
        (["--set", "model=x"], 2, ["no engine"]),
        (["--runtime", "docker"], 2, ["docker"]),
        (["--runtime", "serve", "--trace", "kept"], 2, ["--trace", "uvicorn"]),
    ],
)
def test_what_can_not_be_served_is_told(tmp_path: Path, arguments: list[str], code: int, words: list[str]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = str(listener.getsockname()[1])
        given = [argument.format(taken=taken) for argument in arguments]
        result = subprocess.run(
            command("grpo-crafter", "--runtime", "uvicorn", *given),
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment(),
            timeout=60,
            check=False,
        )
    assert result.returncode == code, result.stderr
    assert all(word.format(taken=taken) in result.stderr for word in words), result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_an_unknown_task_is_told(tmp_path: Path) -> None:
    arguments = command("grpo-craftr", "--runtime", "uvicorn", "--port", str(free_port()), "--json")
    result = subprocess.run(
        arguments, capture_output=True, text=True, cwd=tmp_path, env=environment(), timeout=60, check=False
    )
    assert result.returncode == 4
    assert json.loads(result.stdout)["error"]["kind"] == "not_found"
    assert "did you mean" in result.stderr


def test_it_imports_nothing_heavy() -> None:
    code = (
        "import sys; import serve.local, serve.task_http, serve.task_host;"
        "print([name for name in ('ray', 'torch', 'transformers', 'vllm', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    assert done.stdout.strip() == "[]"
