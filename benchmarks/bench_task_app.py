"""What the task app costs: rollouts per second over Ray Serve and HTTP, and its own time per turn.

    python benchmarks/bench_task_app.py

Starts a local cluster of its own and stops it. Two figures:

* throughput: 10-turn rollouts per second, as a ratio to empty FastAPI endpoints on the same Serve, asked by the same
  client with the same body: "empty" answers without reading the body, "reading" receives it first, which costs Serve a
  call from the replica back to the proxy. The policy answers at once: the scripted teacher with
  ``off_policy_rate = 1``, which makes one to five random actions a turn, all of them executed. "groups" plays each
  world eight times, as training does; "fresh" generates a new world for every rollout. Each repeat measures all four
  next to each other; a ratio is the median over repeats.
* own time per turn, with a policy that answers after 100 ms: how late the loop comes back to the reply, plus the
  world's steps, the reward, the record and the next observation. Rollouts of 10 turns, where 64 at a time ask for more
  than a small machine has (requests count there too), and of 50. "spread": each of the 64 begins at another time, as
  rollouts do that run for a while; "together": all begin, end and begin again in one moment.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import itertools
import json
import os
import platform
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from fastapi import FastAPI, Request

# Ray reads these when it is imported: the loopback, and token authentication.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
os.environ["RAY_AUTH_MODE"] = "token"

from ray import serve as ray_serve

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from jobs.runner import connect
from serve import app
from serve.task_app import MAX_ONGOING, spare_collections
from serve.task_host import TaskHost
from serve.task_http import create_app
from synth_ray.core.paths import find_home
from synth_ray.core.secrets import ENVIRONMENT_KEY, RAY_TOKEN, KeyRing, ensure_env_file, environment_keys
from synth_ray.core.types import EpisodeSpec, Message, Reply
from synth_ray.rollout.policy import Policy
from synth_ray.rollout.task import Episode
from synth_ray.runtime import cluster

TASK, EMPTY, READING, DELAYED = "grpo-crafter", "empty", "reading", "delayed"
TURNS, LONG_TURNS, GROUP = 10, 50, 8
CONCURRENCY = (1, 16, 64)
RATIO_BAR, OWN_BAR_MS = 0.5, 10.0
REPLY_S, OWN_CONCURRENCY = 0.1, 64
PACKAGES = ("ray", "fastapi", "starlette", "uvicorn", "pydantic", "numba")

Body = Callable[[int], dict[str, Any]]


class Delayed:
    """A policy that answers after ``REPLY_S``; notes for every turn how much more time than that went by."""

    def __init__(self, policy: Policy, own_ms: list[float]) -> None:
        self._policy, self._own_ms, self._answered = policy, own_ms, 0.0

    async def reply(self, messages: Sequence[Message], turn: int, episode: Episode) -> Reply:
        """The wrapped policy's reply."""
        asked = time.perf_counter()
        between_s = asked - self._answered if turn else 0.0
        await asyncio.sleep(REPLY_S)
        late_s = time.perf_counter() - asked - REPLY_S
        self._own_ms.append(1e3 * (between_s + late_s))
        reply = await self._policy.reply(messages, turn, episode)
        self._answered = time.perf_counter()
        return reply


class DelayedHost(TaskHost):
    """The task host with such policies."""

    def __init__(self, app_id: str) -> None:
        super().__init__(app_id, None)
        self.own_ms: list[float] = []

    def _policy(self, spec: EpisodeSpec) -> Policy:
        return Delayed(super()._policy(spec), self.own_ms)


class DelayedReplica:
    """The task app on Serve, with policies that take their time."""

    def __init__(self, env_file: str) -> None:
        self._host, self._keys = DelayedHost(TASK), KeyRing(environment_keys(Path(env_file)))
        spare_collections()

    async def ready(self) -> dict[str, Any]:
        """As the task app's."""
        return {}

    async def own_ms(self) -> list[float]:
        """What was noted since the last call."""
        noted = list(self._host.own_ms)
        self._host.own_ms.clear()
        return noted

    async def __serve_build_asgi_app__(self) -> Any:
        """As the task app's."""
        return create_app(self._host, self._keys)


def empty_application(reads: bool) -> Any:
    """A FastAPI endpoint that does nothing, or receives the body, with the task app's deployment options."""
    api = FastAPI()

    async def rollout() -> dict[str, str]:
        return {}

    async def reading(request: Request) -> dict[str, str]:
        await request.body()
        return {}

    api.post("/rollout")(reading if reads else rollout)

    class Empty:
        async def ready(self) -> dict[str, Any]:
            return {}

    return _deployment(ray_serve.ingress(api)(Empty), "Reading" if reads else "Empty").bind()


def _deployment(replica: Any, name: str) -> Any:
    options = {"num_cpus": 0}
    return ray_serve.deployment(replica, name=name, max_ongoing_requests=MAX_ONGOING, ray_actor_options=options)


@contextmanager
def serving(folder: str) -> Iterator[tuple[str, str]]:
    """A cluster with the four applications; yields (URL, key)."""
    os.environ["SYNTH_RAY_HOME"] = folder
    home, env_file = find_home(), Path(folder) / ".env"
    values = ensure_env_file(env_file)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    head = cluster.start(home, values[RAY_TOKEN], port)
    try:
        os.environ.update(head.client_env)
        connect()
        app.start_serve(port, home.serve_lock)
        delayed = _deployment(ray_serve.ingress()(DelayedReplica), "Delayed").bind(str(env_file))
        wanted = [
            app.task(TASK, str(env_file), home.project),
            app.Wanted(EMPTY, f"/{EMPTY}", empty_application(False), app.TASK_TIMEOUT_S),
            app.Wanted(READING, f"/{READING}", empty_application(True), app.TASK_TIMEOUT_S),
            app.Wanted(DELAYED, f"/{DELAYED}", delayed, app.TASK_TIMEOUT_S),
        ]
        app.ensure(wanted, home.serve_lock)
        for one in wanted:
            app.wait_ready(one)
        yield f"http://127.0.0.1:{port}", values[ENVIRONMENT_KEY]
    finally:
        cluster.stop(home)


class Client:
    """Keeps a number of requests going; the same one asks the task app and the empty endpoint."""

    def __init__(self, url: str, key: str) -> None:
        self._url, self._headers = url, {"X-API-Key": key}
        self._ids, self._rollouts = itertools.count(), itertools.count()

    async def per_second(
        self, name: str, group: int, concurrency: int, seconds: float, turns: int = TURNS, spread_s: float = 0.0
    ) -> float:
        """Answers per second; each world is played by ``group`` rollouts, and never again later.

        The first requests are sent over ``spread_s``.
        """
        first_seed = 1000 * next(self._ids)
        connector = aiohttp.TCPConnector(limit=concurrency)
        async with aiohttp.ClientSession(connector=connector, headers=self._headers) as session:
            numbers, done = itertools.count(), 0
            started = time.perf_counter()

            async def worker(index: int) -> None:
                nonlocal done
                await asyncio.sleep(spread_s * index / concurrency)
                while time.perf_counter() - started < seconds:
                    body = self._body(first_seed + next(numbers) // group, turns)
                    async with session.post(f"{self._url}/{name}/rollout", json=body) as answer:
                        text = await answer.read()
                        assert answer.status == 200, text[:300]
                    done += 1

            await asyncio.gather(*(worker(index) for index in range(concurrency)))
            return done / (time.perf_counter() - started)

    def _body(self, seed: int, turns: int) -> dict[str, Any]:
        instant = {"provider": "expert", "off_policy_rate": 1.0, "max_llm_calls": turns}
        return {
            "run_id": f"bench-{next(self._rollouts)}",
            "env": {"env_name": TASK, "seed": seed},
            "policy": {"policy_name": "expert", "config": instant},
            "ops": ["agent", "env"] * turns,
            "mode": "eval",
        }


async def throughput(client: Client, concurrency: int, repeats: int, seconds: float) -> dict[str, Any]:
    """Requests per second of the three, and their ratios."""
    runs: dict[str, list[float]] = {"empty": [], "reading": [], "groups": [], "fresh": []}
    for repeat in range(repeats):
        names = list(runs) if repeat % 2 == 0 else list(runs)[::-1]
        for name in names:
            target = {"empty": EMPTY, "reading": READING}.get(name, TASK)
            group = 1 if name == "fresh" else GROUP
            runs[name].append(await client.per_second(target, group, concurrency, seconds))
    return {
        "concurrency": concurrency,
        **{f"{name}_per_s": round(statistics.median(values), 1) for name, values in runs.items()},
        **{
            f"{name}_to_{base}": _ratio(runs[name], runs[base])
            for name in ("groups", "fresh")
            for base in ("empty", "reading")
        },
    }


def _ratio(ours: list[float], empty: list[float]) -> dict[str, float]:
    ratios = [one / other for one, other in zip(ours, empty, strict=True)]
    values = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    return {name: round(value, 3) for name, value in values.items()}


async def own_time(client: Client, turns: int, start: str, group: int, seconds: float) -> dict[str, Any]:
    """Percentiles of the app's own time per turn, in milliseconds, after a warm-up."""
    spread_s = turns * REPLY_S if start == "spread" else 0.0
    handle = app.handle(DELAYED)
    await client.per_second(DELAYED, GROUP, OWN_CONCURRENCY, 2.0)
    await handle.own_ms.remote()
    per_second = await client.per_second(DELAYED, group, OWN_CONCURRENCY, seconds, turns, spread_s)
    own_ms = await handle.own_ms.remote()
    cuts = statistics.quantiles(own_ms, n=1000, method="inclusive")
    return {
        "concurrency": OWN_CONCURRENCY,
        "reply_ms": 1e3 * REPLY_S,
        "start": start,
        "worlds": "fresh" if group == 1 else "groups",
        "turns_per_rollout": turns,
        "turns": len(own_ms),
        "turns_per_s": round(per_second * turns, 1),
        "p50_ms": round(cuts[499], 2),
        "p99_ms": round(cuts[989], 2),
        "max_ms": round(max(own_ms), 2),
    }


async def measure(url: str, key: str, repeats: int, seconds: float) -> dict[str, Any]:
    """All figures."""
    client = Client(url, key)
    for name in (TASK, EMPTY, READING):
        await client.per_second(name, 1, max(CONCURRENCY), 2.0)
    rows = [await throughput(client, concurrency, repeats, seconds) for concurrency in CONCURRENCY]
    cases = itertools.product((TURNS, LONG_TURNS), (("spread", GROUP), ("spread", 1), ("together", GROUP)))
    own = [await own_time(client, turns, start, group, 6 * seconds) for turns, (start, group) in cases]
    return {
        "schema": "synth-ray/bench.task_app/1",
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "repeats": repeats,
        "turns": TURNS,
        "group": GROUP,
        "throughput": rows,
        "own_time_per_turn": own,
        "bars": {
            "groups_to_empty": {"bar": RATIO_BAR, "met": _reached(rows, "groups_to_empty")},
            "groups_to_reading": {"bar": RATIO_BAR, "met": _reached(rows, "groups_to_reading")},
            "own_p99_ms": {"bar": OWN_BAR_MS, "met": [case["p99_ms"] <= OWN_BAR_MS for case in own]},
        },
    }


def _reached(rows: list[dict[str, Any]], name: str) -> list[bool]:
    return [row[name]["median"] >= RATIO_BAR for row in rows]


def _told(row: dict[str, Any], name: str) -> str:
    ratios = [f"{row[f'{name}_to_{base}']['median']:.2f} of {base}" for base in ("empty", "reading")]
    return f"   {name} {row[f'{name}_per_s']:>6.1f}/s = {', '.join(ratios)}"


def main() -> None:
    """Measures, prints a table, and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("task_app.json"), help="JSON to write")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="length of one measurement")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serving(folder) as (url, key):
        figures = asyncio.run(measure(url, key, arguments.repeats, arguments.seconds))
    for row in figures["throughput"]:
        bases = "   ".join(f"{base} {row[f'{base}_per_s']:.1f}/s" for base in ("empty", "reading"))
        print(f"{row['concurrency']:>3} at a time   {bases}" + _told(row, "groups") + _told(row, "fresh"))
    for own in figures["own_time_per_turn"]:
        percentiles = f"p50 {own['p50_ms']} ms, p99 {own['p99_ms']} ms, max {own['max_ms']} ms"
        case = f"{own['turns_per_rollout']} turns a rollout, {own['start']}, {own['worlds']}"
        print(f"own time per turn, {case}: {percentiles}")
    arguments.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
