"""The local cluster: one Ray head on the loopback, with token authentication, found again and stopped by a record.

Invariants: everything that belongs to the cluster carries its id in the environment, so that it can be stopped without
ever guessing by name; token and task app key are in 0600 files, never in its environment or on a command line.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from synth_ray.core.errors import PrerequisiteError, TemporaryError
from synth_ray.core.paths import Home, app_root, numba_cache, private_dir, write_private
from synth_ray.core.text import last_line
from synth_ray.core.waiting import wait_for
from synth_ray.runtime.scratch import CLUSTER_MARK, remove_scratch

START_TIMEOUT_S = 90.0
_STOP_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 2.0
_OBJECT_STORE_BYTES = 256 << 20
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
"""What Ray says of a job whose process has ended."""
_LOCALHOST = "127.0.0.1"
# Without this Ray replaces 127.0.0.1 by the machine's outer address, in the head and in its clients.
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@dataclass(frozen=True)
class LocalCluster:
    """A running head. ``started`` is its process's start time, for a pid alone may have been given to another;
    ``http_port`` is where Ray Serve listens.
    """

    cluster_id: str
    pid: int
    started: float
    address: str
    dashboard: str
    http_port: int
    token_file: str
    log: str

    @property
    def client_env(self) -> dict[str, str]:
        """What a client's environment needs to talk to the cluster."""
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": self.token_file,
            "RAY_ADDRESS": self.address,
            **_LOOPBACK,
        }

    def processes(self) -> list[psutil.Process]:
        """Every process that carries the cluster's id or lives in its session."""
        alive = self.alive()
        return [process for process in psutil.process_iter() if self._owns(process, alive)]

    def alive(self) -> bool:
        """Whether the head itself still runs."""
        with suppress(psutil.Error):
            head = psutil.Process(self.pid)
            return bool(head.create_time() == self.started and head.status() != psutil.STATUS_ZOMBIE)
        return False

    def job_end(self, job_id: str) -> str:
        """Ray's word (of ``ENDED``) for how a job ended; empty if it may be running or if Ray does not answer."""
        with suppress(OSError, ValueError, KeyError):
            token = Path(self.token_file).read_text(encoding="utf-8")
            status = json.loads(_ask(self.dashboard, job_id, token))["status"]
            return str(status) if status in ENDED else ""
        return ""

    def _owns(self, process: psutil.Process, head_alive: bool) -> bool:
        with suppress(psutil.Error, OSError):
            if head_alive and os.getsid(process.pid) == self.pid:
                return True
            return bool(process.environ().get(CLUSTER_MARK) == self.cluster_id)
        return False


def find(home: Home) -> LocalCluster | None:
    """The cluster of the record, if its head still lives."""
    if not home.cluster_file.exists():
        return None
    try:
        cluster = LocalCluster(**json.loads(home.cluster_file.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        return None
    return cluster if cluster.alive() else None


def require(home: Home) -> LocalCluster:
    """The running cluster, or PrerequisiteError."""
    cluster = find(home)
    if cluster is None:
        raise PrerequisiteError("no local cluster is running", "start one with: synth-ray deploy grpo-crafter")
    return cluster


def start(home: Home, token: str, http_port: int, num_gpus: int | None = None) -> LocalCluster:
    """Starts a head and waits until it takes jobs. The cluster outlives this process; ``stop`` ends it.

    ``num_gpus`` is what Ray is told; None lets it look for itself.
    """
    stop(home)
    check_port(http_port)
    cluster_id = secrets.token_hex(8)
    token_file = home.state / "ray_token"
    write_private(token_file, token)
    log = private_dir(home.state / "logs") / f"head-{cluster_id}.log"
    gcs, dashboard, agent_http, agent_grpc, client = _free_ports(5)
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
        *("--node-ip-address", _LOCALHOST, "--port", str(gcs)),
        *("--dashboard-host", _LOCALHOST, "--dashboard-port", str(dashboard), "--include-dashboard", "true"),
        *("--dashboard-agent-listen-port", str(agent_http), "--dashboard-agent-grpc-port", str(agent_grpc)),
        *("--ray-client-server-port", str(client), "--object-store-memory", str(_OBJECT_STORE_BYTES)),
        *(() if num_gpus is None else ("--num-gpus", str(num_gpus))),
        "--no-monitor",  # Nothing to scale on one machine.
    ]
    with log.open("wb") as output:
        head = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_head_env(cluster_id, token_file),
            start_new_session=True,
        )
    cluster = LocalCluster(
        cluster_id=cluster_id,
        pid=head.pid,
        started=psutil.Process(head.pid).create_time(),
        address=f"{_LOCALHOST}:{gcs}",
        dashboard=f"http://{_LOCALHOST}:{dashboard}",
        http_port=http_port,
        token_file=str(token_file),
        log=str(log),
    )
    write_private(home.cluster_file, json.dumps(asdict(cluster)))
    try:
        wait_for("the Ray head", lambda: _answers(head, dashboard, token, log), START_TIMEOUT_S, hint=f"see {log}")
    except BaseException:
        stop(home)
        raise
    return cluster


def stop(home: Home) -> int:
    """Stops the cluster of the record with all of its processes; returns how many there were."""
    if not home.cluster_file.exists():
        return 0
    try:
        cluster = LocalCluster(**json.loads(home.cluster_file.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        home.cluster_file.unlink(missing_ok=True)
        return 0
    owned = cluster.processes()
    _end(owned, signal.SIGTERM, _STOP_TIMEOUT_S)
    _end(cluster.processes(), signal.SIGKILL, _STOP_TIMEOUT_S)
    remove_scratch(cluster.cluster_id)
    home.cluster_file.unlink(missing_ok=True)
    return len(owned)


def check_port(port: int) -> None:
    """PrerequisiteError if something listens on the loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_LOCALHOST, port))
        except OSError:
            raise PrerequisiteError(
                f"port {port} is in use on this machine", "choose another one with --port, for example --port 8010"
            ) from None


def memory_bytes(processes: Iterable[psutil.Process]) -> int:
    """Proportional set size of the processes together."""
    total = 0
    for process in processes:
        with suppress(OSError):
            total += _pss_bytes(process.pid)
    return total


def _pss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _head_env(cluster_id: str, token_file: Path) -> dict[str, str]:
    dropped = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "ENVIRONMENT_API_KEY", "ENVIRONMENT_API_KEY_ALIASES")
    kept: Mapping[str, str] = {name: value for name, value in os.environ.items() if name not in dropped}
    return {
        **kept,
        CLUSTER_MARK: cluster_id,
        # The code of a local cluster is the code on this disk; other clusters get it as Ray's working_dir.
        "PYTHONPATH": os.pathsep.join(filter(None, [str(app_root()), os.environ.get("PYTHONPATH", "")])),
        "SPT_NOENV": "1",  # Renamed processes keep a readable environment, and so the mark.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file),
        **_LOOPBACK,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        "REPORTER_UPDATE_INTERVAL_MS": "20000",  # Statistics of every process cost seconds of CPU.
        "VLLM_NO_USAGE_STATS": "1",
        "OMP_NUM_THREADS": "1",
        "NUMBA_CACHE_DIR": str(numba_cache()),
        "PYTHONUNBUFFERED": "1",
    }


def _answers(head: subprocess.Popen[bytes], port: int, token: str, log: Path) -> bool | None:
    if head.poll() is not None:
        said = last_line(log.read_text(errors="replace"), "no output")
        raise TemporaryError(f"the Ray head ended with code {head.returncode}: {said}", f"see {log}")
    try:
        _ask(f"http://{_LOCALHOST}:{port}", "", token)
    except OSError:
        return None
    return True


def _ask(dashboard: str, what: str, token: str) -> bytes:
    """What Ray's Jobs API says; any failure is an OSError. Ray's own client would first import Ray, for a second."""
    import http.client
    import urllib.request

    headers = {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"{dashboard}/api/jobs/{what}", headers=headers)  # noqa: S310
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_ANSWER_TIMEOUT_S) as answer:
            return bytes(answer.read())
    except http.client.HTTPException as error:
        raise ConnectionError(f"half an answer: {error}") from error


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind((_LOCALHOST, 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _end(processes: list[psutil.Process], signum: signal.Signals, timeout_s: float) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(signum)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and any(_lives(process) for process in processes):
        time.sleep(0.1)


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    return False
