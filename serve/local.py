"""The task app without Ray: the same routes in one uvicorn process on the loopback, for work on one machine.

    python -m serve.local grpo-crafter --port 8001 --env-file .env --trace-db traces/http.db

stdout gets the URL once requests are answered; SIGINT and SIGTERM end it with the exit codes 130 and 143. There is no
engine here: teachers and remote models play. Invariant: nothing on this path imports ray, torch or transformers.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import socket
import sys
from pathlib import Path

import uvicorn

from synth_ray.core.errors import PrerequisiteError, SynthRayError
from synth_ray.core.origins import read_origins
from synth_ray.core.paths import numba_cache
from synth_ray.core.secrets import ENVIRONMENT_KEY, KeyRing, ensure_env_file, environment_keys, is_exposed
from synth_ray.records.clock import utc_now
from synth_ray.records.traces import TraceDB

_LOCALHOST = "127.0.0.1"
_BACKLOG = 2048
_GRACE_S = 5
"""How long requests in progress may take to end after Ctrl-C."""
_KEEP_ALIVE_S = 30


def main() -> None:
    """Serves until it is stopped; expected failures are one line and a documented exit code."""
    arguments = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda signum, _: sys.exit(128 + signum))
    try:
        serve(arguments.app_id, arguments.port, arguments.env_file, arguments.trace_db, arguments.json)
    except SynthRayError as error:
        _failed(error, arguments.json)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _say("stopped")
        sys.exit(130)


def serve(app_id: str, port: int, env_file: Path, trace_db: Path | None, as_json: bool) -> None:
    """Runs the task app in this process; finished rollouts go to the database ``trace_db``, if it is given.

    A signal is raised again once requests in progress have ended.
    """
    listener = _listen(port)  # First: a taken port is to be told before seconds of imports.
    os.environ.setdefault("NUMBA_CACHE_DIR", str(numba_cache()))  # Read when the world is imported.
    from serve.task_host import TaskHost
    from serve.task_http import create_app

    keys = _keys(env_file)
    host = TaskHost(app_id, None, read_origins(env_file, f"http://{_LOCALHOST}:{listener.getsockname()[1]}"))
    traces = TraceDB(trace_db) if trace_db else None
    config = uvicorn.Config(
        create_app(host, keys, traces),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_S,
    )
    _Server(config, host.task.name, env_file, as_json).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Tells its URL as soon as it answers."""

    def __init__(self, config: uvicorn.Config, name: str, env_file: Path, as_json: bool) -> None:
        super().__init__(config)
        self._name, self._env_file, self._as_json = name, env_file, as_json

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to answer."""
        await super().startup(sockets)
        if self.started and sockets:
            _announce(self._name, int(sockets[0].getsockname()[1]), self._env_file, self._as_json)


def _listen(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((_LOCALHOST, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise PrerequisiteError(
            f"port {port} can't be used on this machine: {error.strerror}",
            "choose another one with --port, for example --port 8010",
        ) from None
    return listener


def _keys(env_file: Path) -> KeyRing:
    """The keys of the environment, else of the file, which is written if it is missing."""
    if env_file.exists() and is_exposed(env_file):
        _say(f"warning: {env_file} can be read by others; making it 0600")
        env_file.chmod(0o600)
    try:
        return KeyRing(environment_keys(env_file))
    except PrerequisiteError:
        ensure_env_file(env_file)
        _say(f"wrote {env_file} (mode 0600): {ENVIRONMENT_KEY}")
        return KeyRing(environment_keys(env_file))


def _announce(name: str, port: int, env_file: Path, as_json: bool) -> None:
    url = f"http://{_LOCALHOST}:{port}"
    key = f"$(sed -n 's/^{ENVIRONMENT_KEY}=//p' {shlex.quote(str(env_file))})"
    if os.environ.get(ENVIRONMENT_KEY):
        key = f"${ENVIRONMENT_KEY}"
    rollout = {
        "run_id": "try-1",
        "env": {"seed": 1},
        "policy": {"config": {"provider": "expert"}},
        "ops": ["agent", "env"] * 10,
        "mode": "eval",
    }
    _say(f"{name} answers at {url}; Ctrl-C stops it. Try it:")
    _say(
        f'curl -s {url}/rollout -H "X-API-Key: {key}" -H "Content-Type: application/json" '
        f"-d {shlex.quote(json.dumps(rollout, separators=(',', ':')))}"
    )
    answer = {"schema": "synth-ray/deploy/1", "as_of": utc_now(), "data": {"url": url, "apps": [name]}}
    sys.stdout.write((json.dumps(answer) if as_json else url) + "\n")
    sys.stdout.flush()


def _failed(error: SynthRayError, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps({"error": error.as_dict()}) + "\n")
    _say(f"error: {error.message}")
    if error.hint:
        _say(f" hint: {error.hint}")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serve.local")
    parser.add_argument("app_id")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--env-file", type=Path, default=Path(".env"), help="where the key is read")
    parser.add_argument("--trace-db", type=Path, help="SQLite file where finished rollouts are kept")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of the URL")
    return parser


if __name__ == "__main__":
    main()
