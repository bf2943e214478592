"""One real local cluster for all pipeline tests, in a home of its own."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from synth_ray.core.paths import Home, find_home
from synth_ray.core.secrets import ensure_env_file
from synth_ray.runtime import cluster
from synth_ray.runtime.job_client import JobClient

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def free_port() -> int:
    """Below the range from which the kernel, and so Ray for its own servers, takes ports."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    root = tmp_path_factory.mktemp("home")
    before = dict(os.environ)
    os.environ["SYNTH_RAY_HOME"] = str(root)
    yield find_home()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def env_file(home: Home) -> Path:
    path = home.project / ".env"
    ensure_env_file(path)
    return path


@pytest.fixture(scope="session")
def local(home: Home, env_file: Path) -> Iterator[cluster.LocalCluster]:
    values = ensure_env_file(env_file)
    started = cluster.start(home, values["RAY_AUTH_TOKEN"], free_port())
    yield started
    cluster.stop(home)


@pytest.fixture(scope="session")
def jobs(local: cluster.LocalCluster, home: Home, env_file: Path) -> JobClient:
    return JobClient(local, home, env_file)
