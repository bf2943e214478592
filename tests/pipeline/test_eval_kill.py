"""kill -9 of evaluations at random instants: no finished rollout is lost, and `--resume` completes them.

An evaluation is killed, goes on, is killed again, ..., and is at last let finish; all of them share one trace database.
Which instants these are says the seed that is printed.
"""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from synth_ray.cli.eval_verbs import resumed
from synth_ray.cli.train_verbs import find_job
from synth_ray.core.errors import ConflictError
from synth_ray.core.paths import Home
from synth_ray.core.types import Rollout
from synth_ray.core.waiting import wait_for
from synth_ray.records.job_files import JobFiles
from synth_ray.records.registry import Registry
from synth_ray.records.states import State
from synth_ray.records.traces import SessionQuery, TraceDB
from synth_ray.runtime.cluster import LocalCluster
from tests.pipeline.conftest import CONFIGS
from tests.pipeline.test_kill import title

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]

T = TypeVar("T")
Rows = dict[str, tuple[Any, ...]]

LIVES, STRETCHES = 4, ((0.0, 0.0), (0.02, 0.3), (0.3, 0.6), (0.6, 0.88), (0.88, 0.98))
KILLS = LIVES * len(STRETCHES)
N_SEEDS = 240
ARGUMENTS = ["-c", str(CONFIGS / "quickstart" / "collect_weak.toml")]
ARGUMENTS += ["--set", "eval.concurrency=4", "--set", "eval.max_turns=30"]
STARTED_S, PLAYED_S, ENDED_S = 180, 300, 60


@dataclass(frozen=True)
class Instant:
    """``wait_s`` after ``share`` of the rollouts is in the file; if that is none, with the first one at the latest."""

    share: float
    wait_s: float
    command_too: bool

    def __str__(self) -> str:
        return f"{self.wait_s:.3f} s after {self.share:.0%}, {'driver and command' if self.command_too else 'driver'}"


@dataclass(frozen=True)
class Unbroken:
    """An evaluation that nobody killed, and how long its driver took to the first rollout."""

    eval_id: str
    summary: dict[str, Any]
    episodes: dict[int, Rollout]
    rows: Rows
    starting_s: float


class Attempt:
    """One `synth-ray eval` command, the job that it submitted, and that job's process."""

    def __init__(self, home: Home, local: LocalCluster, log: Path, arguments: list[str]) -> None:
        before, self._log = newest(home), log
        command = [sys.executable, "-m", "synth_ray.cli.main", "eval", "--json", *arguments]
        with log.open("wb") as out, log.with_suffix(".err").open("wb") as err:
            self.command = subprocess.Popen(command, cwd=home.project, stdout=out, stderr=err)
        self.job_id = self._wait("new job in the registry", lambda: new if (new := newest(home)) != before else None)
        self.files = JobFiles(home.jobs / self.job_id)
        self._wait("saved configuration", lambda: self.files.config_path.exists() or None)
        self.started, self.driver = time.time(), driver(local, self.job_id)

    def _wait(self, name: str, probe: Callable[[], T | None]) -> T:
        def alive_probe() -> T | None:
            found = probe()
            assert found is not None or self.command.poll() is None, f"no {name}: {self.said()}"
            return found

        return wait_for(name, alive_probe, STARTED_S, 0.05)

    def exit_code(self) -> int:
        return wait_for("the command's end", self.command.poll, PLAYED_S, 0.05)

    def summary(self) -> dict[str, Any]:
        assert self.exit_code() == 0, self.said()
        return dict(json.loads(self._log.read_text())["data"])

    def said(self) -> str:
        return self._log.with_suffix(".err").read_text()

    def reported(self) -> int:
        """How many rollouts it has last said to be finished."""
        event = self.files.last_event() or {}
        return int(event["done"]) if event.get("stage") == "play" else 0

    def kill(self, command_too: bool) -> bool:
        """False if it had ended by itself."""
        try:
            self.driver.kill()
        except psutil.NoSuchProcess:
            return False
        wait_for("the death of the driver", lambda: True if dead(self.driver) else None, ENDED_S, 0.01)
        if self.files.result() is not None:
            return False
        if command_too:
            self.command.kill()
        return True


class Life:
    """One evaluation with all of its attempts."""

    def __init__(self, home: Home, local: LocalCluster, folder: Path, n_seeds: int) -> None:
        self.home, self._local, self._folder = home, local, folder
        self.db = home.traces / "kill.db"
        self.attempt = self._start([*ARGUMENTS, "--seeds", f"0-{n_seeds - 1}", "--trace-db", str(self.db)])
        self.eval_id = self.attempt.job_id

    def resume(self) -> None:
        self.attempt = self._start(["--resume", self.eval_id])

    def reach(self, instant: Instant) -> None:
        wait_for(
            f"{instant.share:.0%} of the rollouts in {self.db}",
            lambda: True if self._count() >= instant.share * N_SEEDS else None,
            PLAYED_S,
            0.02,
        )
        due = time.monotonic() + instant.wait_s
        while time.monotonic() < due and (instant.share or not self._count()):
            time.sleep(0.005)

    def killed_at(self, instant: Instant) -> bool:
        """Kills it then, and checks that nothing is lost; False if it had ended by itself."""
        self.reach(instant)
        seen = rows(self.db, self.eval_id)
        if not self.attempt.kill(instant.command_too):
            return False
        journal = self.db.with_name(f"{self.db.name}-journal")
        hot = journal.exists() and journal.stat().st_size > 0
        assert integrity(self.db) == ["ok"]
        there, reported = rows(self.db, self.eval_id), self.attempt.reported()
        said = f"{instant}: {reported} reported, {len(seen)} seen, {len(there)} there, {hot=}"
        print(said)
        assert differing(seen, there) <= set(there) - set(seen), f"lost or changed; {said}"
        assert len(there) >= reported, said
        self._check_ended(instant)
        return True

    def check_whole(self, unbroken: Unbroken) -> None:
        """Every seed is there once, and was played as if nobody had killed anything."""
        assert len(rows(self.db, self.eval_id)) == N_SEEDS
        assert differing(episodes(self.db, self.eval_id), unbroken.episodes) == set()
        assert differing(rows(self.db, unbroken.eval_id), unbroken.rows) == set(), "another evaluation in the file"
        assert integrity(self.db) == ["ok"]

    def _count(self) -> int:
        found = query(self.db, "SELECT count(*) FROM sessions WHERE run_id = ?", self.eval_id)
        return int(found[0][0]) if found else 0

    def _start(self, arguments: list[str]) -> Attempt:
        log = self._folder / f"{len(list(self._folder.iterdir()))}.json"
        return Attempt(self.home, self._local, log, [*arguments, "--env-file", str(self.home.project / ".env")])

    def _check_ended(self, instant: Instant) -> None:
        if not instant.command_too:
            assert self.attempt.exit_code() == 1, self.attempt.said()
            assert "without a result" in self.attempt.said()
        ended(self.home, self.attempt.job_id)


Start = Callable[..., Life]


@pytest.fixture(scope="module")
def start(home: Home, local: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    lives: list[Life] = []

    def begin(n_seeds: int = N_SEEDS) -> Life:
        lives.append(Life(home, local, tmp_path_factory.mktemp("life"), n_seeds))
        return lives[-1]

    begin(1).attempt.summary()  # From now on the task app runs.
    yield begin
    for life in lives:
        life.attempt.command.kill()


@pytest.fixture(scope="module")
def unbroken(start: Start) -> Unbroken:
    life = start()
    starting_s = wait_for("the first rollout", lambda: first_rollout(life.attempt), STARTED_S) - life.attempt.started
    result = facts(life.attempt.summary())
    played = episodes(life.db, life.eval_id)
    assert list(played) == list(range(N_SEEDS))
    return Unbroken(life.eval_id, result, played, rows(life.db, life.eval_id), starting_s)


def test_killed_at_any_instant_nothing_is_lost(start: Start, unbroken: Unbroken) -> None:
    seed = random.SystemRandom().randrange(1_000_000)
    print(f"seed {seed}; a start takes {unbroken.starting_s:.1f} s")
    chance = random.Random(seed)
    plans = deque(instants(chance, unbroken.starting_s) for _ in range(LIVES))
    killed = 0
    for _ in range(2 * LIVES):  # a kill that comes too late, on a busy machine, is tried again on one more evaluation
        if not plans:
            break
        life, plan = start(), plans.popleft()
        while plan and life.killed_at(plan[0]):
            plan.pop(0)
            killed += 1
            life.resume()
        if plan:
            plans.append(plan)
        assert facts(life.attempt.summary()) == unbroken.summary
        life.check_whole(unbroken)
    assert killed == KILLS


def test_a_job_outlives_its_command_and_is_not_resumed_meanwhile(start: Start, unbroken: Unbroken) -> None:
    life = start()
    assert life.killed_at(Instant(0.1, 0.0, command_too=True))
    life.resume()
    life.reach(Instant(0.2, 0.0, command_too=True))
    running = life.attempt
    running.command.kill()
    with pytest.raises(ConflictError, match=f"{running.job_id} is running"):
        resumed(life.home, life.eval_id, [])
    assert ended(life.home, running.job_id, PLAYED_S) is State.SUCCEEDED
    assert facts((running.files.result() or {})["result"]) == unbroken.summary
    life.check_whole(unbroken)


def instants(chance: random.Random, starting_s: float) -> list[Instant]:
    """One before the first rollout, then one in every stretch of the evaluation."""
    longest_s = [starting_s, *[0.05] * (len(STRETCHES) - 1)]
    return [
        Instant(chance.uniform(*stretch), chance.uniform(0, wait_s), chance.random() < 0.5)
        for stretch, wait_s in zip(STRETCHES, longest_s, strict=True)
    ]


def newest(home: Home) -> str | None:
    if not home.state_db.exists():
        return None
    with Registry(home.state_db, read_only=True) as registry:
        return next((job.job_id for job in registry.jobs(limit=1, type="eval")), None)


def driver(local: LocalCluster, job_id: str) -> psutil.Process:
    wanted = f"{sys.executable} -m jobs.eval --job-id {job_id} "
    found = [process for process in local.processes() if title(process).startswith(wanted)]
    assert found, wanted
    # A child looks like its parent until it becomes something else.
    return min(found, key=lambda process: process.create_time())


def dead(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def ended(home: Home, job_id: str, timeout_s: float = ENDED_S) -> State:
    """How the job ended, as any command sees it."""

    def status() -> State | None:
        found = find_job(home, job_id).status
        return found if found.final else None

    return wait_for(f"the recorded end of {job_id}", status, timeout_s)


def first_rollout(attempt: Attempt) -> float | None:
    event = attempt.files.last_event() or {}
    return float(event["t"]) if event.get("stage") == "play" else None


def facts(summary: dict[str, Any]) -> dict[str, Any]:
    """A summary without the names of the job and the evaluation."""
    return {key: value for key, value in summary.items() if key not in ("job_id", "eval_id")}


def differing(a: Mapping[Any, object], b: Mapping[Any, object]) -> set[Any]:
    """The keys whose values differ; pytest would print megabytes of values."""
    return {key for key in a.keys() | b.keys() if a.get(key) != b.get(key)}


def rows(db: Path, eval_id: str) -> Rows:
    """The evaluation's rollouts by id, with their turns, as a reader finds them."""
    sql = "SELECT * FROM sessions JOIN turns USING (rollout_id) WHERE run_id = ? ORDER BY rollout_id, turn"
    found: Rows = {}
    for row in query(db, sql, eval_id):
        found[row[0]] = (*found.get(row[0], ()), row)
    return found


def integrity(db: Path) -> list[str]:
    return [row[0] for row in query(db, "PRAGMA integrity_check")] if db.exists() else ["ok"]


def query(db: Path, sql: str, *values: str) -> list[tuple[Any, ...]]:
    if not db.exists():
        return []
    with closing(sqlite3.connect(db, timeout=30)) as connection:
        return connection.execute(sql, values).fetchall()


def episodes(db: Path, eval_id: str) -> dict[int, Rollout]:
    """What was played, by position among the seeds, without times and ids."""
    with TraceDB(db, read_only=True) as traces:
        found = list(traces.rollouts(SessionQuery(run_id=eval_id, order="seed")))
    assert all(one.ok for one in found)
    return {one.group: timeless(one) for one in found}


def timeless(rollout: Rollout) -> Rollout:
    turns = tuple(replace(turn, sample_ms=0.0, env_ms=0.0) for turn in rollout.turns)
    return replace(rollout, rollout_id="", run_id="", started_at="", duration_ms=0.0, turns=turns)
