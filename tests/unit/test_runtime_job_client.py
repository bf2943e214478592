"""The job client against a real HTTP server that answers, refuses, or stays silent; and jobs whose cluster is gone."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from synth_ray.core.errors import AuthError, JobFailed, NotFoundError, PrerequisiteError, TemporaryError
from synth_ray.core.paths import Home
from synth_ray.records.job_files import JobFiles
from synth_ray.records.registry import Registry
from synth_ray.records.states import State
from synth_ray.runtime import job_client
from synth_ray.runtime import settle as settle_module
from synth_ray.runtime.cluster import LocalCluster
from synth_ray.runtime.job_client import JobClient
from synth_ray.runtime.settle import settle

pytestmark = pytest.mark.timeout(60)


class FakeDashboard(ThreadingHTTPServer):
    """Says of every job what ``status`` says; stays silent for ``silence_s``; has no agent for the first requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.code, self.status, self.silence_s = 200, "RUNNING", 0.0
        self.without_agent = 0
        self.submitted: list[dict[str, Any]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeDashboard

    def do_GET(self) -> None:
        if self.path.endswith("/version"):
            import ray

            self._answer({"version": "4", "ray_version": ray.__version__, "ray_commit": "", "session_name": "s"}, 200)
        elif self.path.endswith("/logs"):
            self._answer({"logs": "one\ntwo\n"})
        else:
            self._answer({"type": "SUBMISSION", "status": self.server.status, "entrypoint": "x", "submission_id": "y"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        if self.path.endswith("/stop"):
            self.server.status = "STOPPED"
            self._answer({"stopped": True})
        elif self.server.without_agent:
            self.server.without_agent -= 1
            self._answer("No available agent to submit job, please try again later.", 500)
        else:
            self.server.submitted.append(body)
            self._answer({"job_id": body["submission_id"], "submission_id": body["submission_id"]})

    def _answer(self, value: Any, code: int | None = None) -> None:
        if code is None:
            time.sleep(self.server.silence_s)
        data = json.dumps(value).encode()
        self.send_response(code or self.server.code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with suppress(BrokenPipeError):  # whoever asked has given up
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def dashboard() -> Iterator[FakeDashboard]:
    server = FakeDashboard()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(state=tmp_path / "state", project=tmp_path)


@pytest.fixture
def cluster(dashboard: FakeDashboard, home: Home, monkeypatch: pytest.MonkeyPatch) -> LocalCluster:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # put back afterwards
    me = psutil.Process()
    home.state.mkdir(parents=True)
    token = home.state / "token"
    token.write_text("t" * 40)
    return LocalCluster("c1", me.pid, me.create_time(), "127.0.0.1:1", dashboard.url, 8000, str(token), "head.log")


@pytest.fixture
def jobs(cluster: LocalCluster, home: Home) -> JobClient:
    return JobClient(cluster, home, home.state / ".env")


def test_a_submitted_job_can_be_seen_at_once(jobs: JobClient, home: Home, dashboard: FakeDashboard) -> None:
    job = jobs.submit("rl", [], ["a.b=1"], "my-run", resume=True)
    with Registry(home.state_db) as registry:
        record = registry.find_job("my-run")
        assert (record.job_id, record.type, record.status) == (job.job_id, "rl", State.CREATED)
        assert record.run_dir == str(home.runs / "my-run")
        claimed = registry.claim_job(job.job_id, "rl", "my-run", "abc")
        assert claimed.config_sha256 == "abc"
    (sent,) = dashboard.submitted
    assert sent["submission_id"] == job.job_id
    assert "--run-name my-run --resume" in sent["entrypoint"]
    assert job.files.cluster_id == "c1"


def test_a_result_is_returned_and_a_failure_raised(jobs: JobClient) -> None:
    job = jobs.submit("eval", [])
    job.files.succeeded({"mean": 1.0})
    assert jobs.wait(job) == {"mean": 1.0}
    job.files.failed({"kind": "not_found", "message": "no model", "hint": "h"}, 4)
    with pytest.raises(NotFoundError, match="no model"):
        jobs.wait(job)


def test_a_job_that_ends_without_a_word(
    jobs: JobClient, home: Home, dashboard: FakeDashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_client, "_STATUS_EVERY_S", 0.1)
    job = jobs.submit("rl", [])
    dashboard.status = "FAILED"
    with pytest.raises(JobFailed, match="without a result: two"):
        jobs.wait(job)
    with Registry(home.state_db) as registry:
        assert registry.job(job.job_id).status is State.FAILED


def test_a_refused_submission_is_a_failed_job(jobs: JobClient, home: Home, dashboard: FakeDashboard) -> None:
    dashboard.code = 500
    with pytest.raises(JobFailed, match="refused"):
        jobs.submit("rl", [], run_name="r")
    with Registry(home.state_db) as registry:
        assert registry.find_job("r").status is State.FAILED


def test_a_new_cluster_whose_node_is_late_gets_the_job_when_it_is_there(
    jobs: JobClient, home: Home, dashboard: FakeDashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    dashboard.without_agent = 2
    job = jobs.submit("eval", [])
    assert [one["submission_id"] for one in dashboard.submitted] == [job.job_id]
    dashboard.without_agent = 2
    monkeypatch.setattr(job_client, "_SUBMIT_TIMEOUT_S", 0.1)
    with pytest.raises(JobFailed, match="No available agent"):
        jobs.submit("eval", [])


def test_a_refused_token(jobs: JobClient, dashboard: FakeDashboard) -> None:
    dashboard.code = 401
    with pytest.raises(AuthError) as caught:
        jobs.logs("job_1")
    assert caught.value.exit_code == 6


def test_a_cluster_that_is_gone(cluster: LocalCluster, home: Home) -> None:
    gone = replace(cluster, pid=cluster.pid, started=1.0, dashboard="http://127.0.0.1:9")
    with pytest.raises(PrerequisiteError, match="is gone") as caught:
        JobClient(gone, home, home.state / ".env")
    assert caught.value.exit_code == 3


def test_a_silent_cluster_is_not_waited_for(
    jobs: JobClient, dashboard: FakeDashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_client, "REQUEST_TIMEOUT_S", 0.2)
    dashboard.silence_s = 2.0
    started = time.monotonic()
    with pytest.raises(TemporaryError, match="does not answer") as caught:
        jobs.logs("job_1")
    assert time.monotonic() - started < 1.5
    assert caught.value.exit_code == 75


def test_a_stopped_job_that_had_not_begun_is_cancelled(jobs: JobClient, home: Home, dashboard: FakeDashboard) -> None:
    job = jobs.submit("eval", [])
    jobs.stop(job)
    assert dashboard.status == "STOPPED"
    with Registry(home.state_db) as registry:
        assert registry.job(job.job_id).status is State.CANCELLED


def test_jobs_of_a_cluster_that_is_gone_are_settled(home: Home) -> None:
    with Registry(home.state_db) as registry:
        for job_id, cluster_id in (("job_lost", "c0"), ("job_foreign", ""), ("job_refused", "c0")):
            registry.create_job("rl", job_id, job_id=job_id)
            if cluster_id:
                JobFiles(home.jobs / job_id).submitted_to(cluster_id)
    JobFiles(home.jobs / "job_refused").failed({"kind": "usage", "message": "bad config"}, 2)
    settle(home)
    with Registry(home.state_db) as registry:
        assert {job.job_id: (job.status, job.error) for job in registry.jobs()} == {
            "job_lost": (State.FAILED, "the cluster that ran it is gone"),
            "job_foreign": (State.CREATED, None),
            "job_refused": (State.FAILED, "bad config"),
        }


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("RUNNING", (State.RUNNING, None)),
        ("FAILED", (State.FAILED, "its process ended as FAILED without a result")),
        ("STOPPED", (State.CANCELLED, "the job was stopped")),
    ],
)
def test_a_killed_job_that_nobody_waits_for_is_settled(
    jobs: JobClient, cluster: LocalCluster, home: Home, dashboard: FakeDashboard, said: str, expected: tuple[Any, Any]
) -> None:
    home.cluster_file.write_text(json.dumps(asdict(cluster)))
    job = jobs.submit("eval", [])
    dashboard.status = said
    with Registry(home.state_db) as registry:
        registry.set_job_status(job.job_id, State.RUNNING)
        settle(home)
        record = registry.job(job.job_id)
    assert (record.status, record.error) == expected
    assert (job.files.result() is None) is (said == "RUNNING")


def test_who_asks_often_settles_once_and_waits_for_nobody(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    settled: list[Home] = []
    begun, done = threading.Event(), threading.Event()

    def slow(of: Home) -> None:
        settled.append(of)
        begun.set()
        assert done.wait(10)

    monkeypatch.setattr(settle_module, "settle", slow)
    settler = settle_module.Settler()
    first = threading.Thread(target=settler.settle, args=(home,))
    first.start()
    assert begun.wait(10)
    settler.settle(home)  # returns at once
    done.set()
    first.join()
    settler.settle(home)
    assert settled == [home]
    monkeypatch.setattr(settle_module, "EVERY_S", 0.0)
    settler = settle_module.Settler()
    settler.settle(home)
    settler.settle(home)
    assert settled == [home] * 3


def test_a_job_of_a_silent_cluster_may_be_running(
    jobs: JobClient, cluster: LocalCluster, dashboard: FakeDashboard
) -> None:
    dashboard.status = "FAILED"
    assert cluster.job_end("job_1") == "FAILED"
    for code in (404, 500):
        dashboard.code = code
        assert cluster.job_end("job_1") == ""
    assert replace(cluster, dashboard="http://127.0.0.1:9").job_end("job_1") == ""
