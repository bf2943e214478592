"""Ctrl-C and kill -9 of the command: nothing is left behind, or `down` finds it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from synth_ray.runtime.scratch import CLUSTER_MARK
from tests.pipeline.conftest import free_port

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize(
    ("stage", "signum", "code"),
    [
        ("start ", signal.SIGINT, 130),
        ("collect ", signal.SIGINT, 130),
        pytest.param("collect ", signal.SIGTERM, 143, marks=pytest.mark.long),
    ],
)
def test_a_stopped_quickstart_leaves_nothing(tmp_path: Path, stage: str, signum: int, code: int) -> None:
    process, log = quickstart(tmp_path)
    until(lambda: stage in log.read_text(), 60)
    time.sleep(3.0)
    process.send_signal(signum)
    assert process.wait(60) == code, log.read_text()
    assert "Traceback" not in log.read_text()
    assert marked(tmp_path) == []
    assert not (tmp_path / "cluster.json").exists()


def test_down_finds_what_a_killed_command_left(tmp_path: Path) -> None:
    process, log = quickstart(tmp_path)
    until(lambda: "engine " in log.read_text(), 60)
    process.kill()
    process.wait(10)
    assert marked(tmp_path)
    down = [sys.executable, "-m", "synth_ray.cli.main", "down"]
    done = subprocess.run(down, env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=True)
    assert "stopped" in done.stderr
    assert marked(tmp_path) == []


def quickstart(home: Path) -> tuple[subprocess.Popen[bytes], Path]:
    log = home / "quickstart.log"
    command = [sys.executable, "-m", "synth_ray.cli.main", "quickstart", "--port", str(free_port())]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=home,
            env=environment(home),
            stdout=output,
            stderr=output,
            # A test run in the background ignores SIGINT, and its children would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    return process, log


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH")}
    return {**kept, "SYNTH_RAY_HOME": str(home)}


def marked(home: Path) -> list[str]:
    """Processes that belong to a cluster of ``home``."""
    found = []
    for process in psutil.process_iter():
        try:
            values = process.environ()
        except (psutil.Error, OSError):
            continue
        if (
            CLUSTER_MARK in values
            and values.get("SYNTH_RAY_HOME") == str(home)
            and process.status() != psutil.STATUS_ZOMBIE
        ):
            found.append(" ".join(process.cmdline())[:100])
    return found


def until(probe: object, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not probe():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.2)
