"""docs/playbook.md, from the first command to the last, in a fresh folder on a cluster of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.pipeline.conftest import free_port
from tests.playbook_doc import missing, steps

pytestmark = [pytest.mark.long, pytest.mark.timeout(2400)]

TIMEOUT_S = 2100
PORTS = ("8000", "8001")
INHERITED_SECRETS = ("ENVIRONMENT_API_KEY", "ENVIRONMENT_API_KEY_ALIASES", "RAY_AUTH_TOKEN", "RAY_ADDRESS")


def test_every_command_runs_and_prints_what_the_document_says(tmp_path: Path) -> None:
    project, logs = tmp_path / "project", tmp_path / "logs"
    project.mkdir()
    logs.mkdir()
    environment = fresh_environment(project)
    ports = {documented: str(free_port()) for documented in PORTS}
    script = logs / "playbook.sh"
    # A document's own ports may be in use.
    script.write_text(replaced("\n".join(["set -euo pipefail", *map(logged, steps_to(logs))]), ports))
    code = run(script, project, environment, logs / "shell")
    for number, (commands, expected) in enumerate(steps()):
        log = logs / f"{number:02}"
        printed = log.read_text() if log.exists() else ""
        wanted = missing(replaced(expected, ports), printed)
        assert not wanted, f"{wanted!r} is not in what this printed:\n{commands}\n{printed}"
        assert "Traceback" not in printed, printed
    assert code == 0, (logs / f"{len(steps()) - 1:02}").read_text()
    assert (project / "best.gif").stat().st_size > 0


def run(script: Path, project: Path, environment: dict[str, str], log: Path) -> int:
    """The exit code of the script; whatever it started is gone afterwards."""
    with log.open("wb") as output:
        shell = subprocess.Popen(
            ["bash", str(script)],
            cwd=project,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        return shell.wait(TIMEOUT_S)
    finally:
        subprocess.run(["synth-ray", "down"], cwd=project, env=environment, timeout=120, check=False)
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
        shell.wait(10)


def steps_to(logs: Path) -> list[tuple[Path, str]]:
    """The commands of each step, and where its output goes."""
    return [(logs / f"{number:02}", commands) for number, (commands, _) in enumerate(steps())]


def logged(step: tuple[Path, str]) -> str:
    log, commands = step
    return f"exec > '{log}' 2>&1\n{commands}"


def replaced(text: str, ports: dict[str, str]) -> str:
    for documented, port in ports.items():
        text = text.replace(documented, port)
    return text


def fresh_environment(project: Path) -> dict[str, str]:
    """A user's shell with the virtual environment activated; artefacts, state and cluster are in ``project``."""
    kept = {name: value for name, value in os.environ.items() if name not in INHERITED_SECRETS}
    bin_folder = str(Path(sys.executable).parent)
    return {
        **kept,
        "PATH": os.pathsep.join([bin_folder, kept["PATH"]]),
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "SYNTH_RAY_HOME": str(project),
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
