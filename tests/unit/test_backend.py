"""The jobs' API: real registry, real files, a real server; only the cluster is a fake that records what it is given."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from serve.backend import http as backend_http
from serve.backend.feed import metric_name
from serve.backend.service import Backend
from serve.backend.stream import parse_place
from serve.gateway import Gateway
from serve.gateway_http import create_app
from synth_ray.core.config import load_config
from synth_ray.core.errors import ConfigError, PrerequisiteError
from synth_ray.core.paths import Home
from synth_ray.core.secrets import KeyRing, gateway_keys
from synth_ray.core.sections import RLConfig
from synth_ray.core.sft_sections import SFTConfig
from synth_ray.records.job_files import JobFiles
from synth_ray.records.metrics import MetricsLog
from synth_ray.records.registry import Model, Registry
from synth_ray.records.runs import RunDir
from synth_ray.records.states import State
from synth_ray.runtime import settle as settle_module
from synth_ray.runtime.settle import Settler
from tests.unit.live_app import live_app
from tests.unit.scripted_gateway import ScriptedEngine

KEY = "the-key-of-this-backend"
HEADERS = {"Authorization": f"Bearer {KEY}"}
TASK_APP = "http://127.0.0.1:8000/grpo-crafter"
LINE = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}
RL: dict[str, Any] = {"model": {"base": "crafter-tiny"}, "training": {"iterations": 3}}

JUDGE = {"provider": "groq", "model": "openai/gpt-oss-120b"}


class FakeCluster:
    """Records jobs as the real client does, and runs none."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.submitted: list[tuple[str, Path, str]] = []
        self.stopped: list[str] = []
        self.gone = False

    def submit(self, kind: str, config: Path, job_id: str) -> None:
        if self.gone:
            raise PrerequisiteError("the cluster is gone", "start one")
        self.submitted.append((kind, config, job_id))
        with Registry(self.home.state_db) as registry:
            registry.create_job(kind, job_id, job_id=job_id)

    def stop(self, job_id: str) -> None:
        self.stopped.append(job_id)


class Api:
    """A client of the API with the right key."""

    def __init__(self, origin: str, cluster: FakeCluster) -> None:
        self.origin, self.cluster, self.home = origin, cluster, cluster.home

    def __call__(self, method: str, path: str, status: int = 200, **more: Any) -> Any:
        answer = httpx2.request(method, f"{self.origin}/api{path}", headers=HEADERS | more.pop("headers", {}), **more)
        assert answer.status_code == status, answer.text
        return answer.json()

    def rl(self, config: Any = None, status: int = 201, headers: dict[str, str] | None = None, **data: Any) -> Any:
        body = {"job_type": "rl", "compute": {}, "data": {"config": RL if config is None else config, **data}}
        return self("POST", "/rl/jobs", status, json=body, headers=headers or {})

    def upload(self, content: bytes, name: str = "data.jsonl", status: int = 201) -> Any:
        return self("POST", "/files", status, files={"file": (name, content)}, data={"purpose": "fine-tune"})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Backend, FakeCluster]]:
    home = Home(tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("project"))
    cluster = FakeCluster(home)
    backend = Backend(home, cluster, lambda: ["grpo-crafter"])
    with live_app(create_app(Gateway(home, _NoEngine()), backend, KeyRing([KEY]))) as origin:
        yield origin, backend, cluster


@pytest.fixture
def api(server: tuple[str, Backend, FakeCluster], tmp_path: Path) -> Api:
    """The one server, with an empty home for each test."""
    origin, backend, cluster = server
    backend.home = Home(tmp_path / "state", tmp_path)
    backend._settler = Settler()
    cluster.__init__(backend.home)  # type: ignore[misc]
    return Api(origin, cluster)


class _NoEngine(ScriptedEngine):
    def __init__(self) -> None:
        pass


def jsonl(*lines: Any) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def run_a_job(home: Home, job_id: str, ok: bool = True) -> None:
    """What a job leaves behind: events, metrics, a result."""
    files = JobFiles(home.jobs / job_id)
    run = RunDir.create(home.runs, job_id, {"training": {"iterations": 2}})
    run.start_attempt(job_id)
    files.event("connect", note="the cluster")
    with MetricsLog(run.metrics) as metrics:
        for step in range(2):
            files.event("train", step + 1, 2, f"rewards {step}")
            metrics.append(step, {"reward/mean": step / 4, "loss": 0.5, "note": "text", "kl/mean": float("nan")})
    run.set_state(State.RUNNING)
    run.set_state(State.SUCCEEDED if ok else State.FAILED)
    with Registry(home.state_db) as registry:
        registry.set_job_status(job_id, State.RUNNING)
        result = {"model": f"rl:crafter-tiny:{job_id}", "run_dir": str(run.path), "batch_rewards": [0.0, 0.25]}
        if ok:
            registry.set_job_status(job_id, State.SUCCEEDED, result=result)
            files.succeeded(result)
        else:
            registry.set_job_status(job_id, State.FAILED, "it broke")
            files.failed({"kind": "internal", "message": "it broke"}, 1)


def test_every_route_needs_the_key_and_refuses_alike(api: Api) -> None:
    paths = ["/rl/jobs", "/v1/learning/jobs", "/files", "/v1/learning/models", "/nowhere", "/rl/jobs/job_1/stream"]
    answers = [
        httpx2.get(f"{api.origin}/api{path}", headers=head) for path in paths for head in ({}, {"X-API-Key": "x"})
    ]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.text for answer in answers}) == 1


def test_both_keys_open_it(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    env.write_text("ENVIRONMENT_API_KEY=one\nSYNTH_API_KEY=two\nENVIRONMENT_API_KEY_ALIASES=three\n")
    assert gateway_keys(env, {}) == ["two", "one", "three"]
    env.write_text("ENVIRONMENT_API_KEY=one\n")
    assert gateway_keys(env, {}) == ["one"]


def test_an_rl_job_is_validated_written_and_submitted(api: Api) -> None:
    created = api.rl(endpoint_base_url=TASK_APP)
    ((kind, path, job_id),) = api.cluster.submitted
    assert (kind, job_id, created["status"]) == ("rl", created["job_id"], "queued")
    config = load_config(RLConfig, [path]).config
    assert (config.model.base, config.training.iterations) == ("crafter-tiny", 3)
    assert path.stat().st_mode & 0o077 == 0
    for prefix in ("", "/v1"):
        for route in (f"/rl/jobs/{job_id}", f"/learning/jobs/{job_id}", f"/learning/jobs/{job_id}/status"):
            assert api("GET", prefix + route)["job_id"] == job_id
    assert api("GET", f"/learning/jobs/{job_id}/config")["training"] == {"iterations": 3}
    api("GET", "/rl/jobs/job_0", 404)


def test_the_old_toml_is_accepted_whole_and_nulls_are_left_out(api: Api, checkout: Path) -> None:
    old: dict[str, Any] = {
        "algorithm": {"type": "online", "method": "policy_gradient", "variety": "gspo"},
        "services": {"task_url": TASK_APP, "judge_url": None},
        "compute": {"gpu_type": "H200", "gpu_count": 2, "topology": {"gpus_for_vllm": 1, "gpus_for_training": 1}},
        "reference": {"placement": "none"},
        "model": {"base": "Qwen/Qwen3-0.6B", "source": None, "trainer_mode": "lora", "label": "x"},
        "rollout": {"env_name": "crafter", "policy_name": "crafter-react", "max_turns": 10},
        "training": {"num_epochs": 1, "iterations_per_epoch": 7, "batch_size": 4, "group_size": 4},
    }
    api.rl(old, base_model="Qwen/Qwen3-0.6B")
    config = load_config(RLConfig, [api.cluster.submitted[0][1]]).config
    assert (config.training.iterations, config.model.base) == (7, "Qwen/Qwen3-0.6B")


def test_the_model_beside_the_config_wins(api: Api) -> None:
    with Registry(api.home.state_db) as registry:
        registry.add_model(Model("fft:crafter-tiny:job_a", "crafter-tiny", "full", "/x", "d", "job_a"))
    api.rl(model="fft:crafter-tiny:job_a")
    model = load_config(RLConfig, [api.cluster.submitted[0][1]]).config.model
    assert (model.source, model.base) == ("fft:crafter-tiny:job_a", "")


@pytest.mark.parametrize(
    ("config", "status"),
    [
        ({}, 422),
        ({**RL, "trainnig": {}}, 422),
        ({**RL, "model": {"base": "/etc"}}, 422),
        ({**RL, "model": {"base": "~"}}, 422),
        ({**RL, "model": {"base": "runs/.."}}, 422),
        ({**RL, "model": {"base": "../../etc"}}, 422),
        ({**RL, "model": {"base": "models/mine"}}, 422),
        ({**RL, "model": {"source": "fft:crafter-tiny:job_absent"}}, 404),
        ({**RL, "model": "x"}, 422),
        ({**RL, "training": {"rewards": 3}}, 422),
        ({**RL, "rollout": {"env_name": "/tmp/evil.py"}}, 422),
        ({**RL, "rollout": {"env_name": "antigravity:Task"}}, 422),
        ({**RL, "rubric": {"path": "/etc/passwd"}}, 422),
        ({**RL, "rubric": {"path": "secrets.json"}}, 422),
        ({**RL, "judge": {"enabled": True, "options": {**JUDGE, "rubric_id": "../x.toml"}}}, 422),
        ([], 422),
    ],
)
def test_what_a_remote_caller_may_not_name_starts_nothing(api: Api, config: Any, status: int) -> None:
    (api.home.models / "mine").mkdir(parents=True)
    assert api.rl(config, status)["detail"]["error"]["message"]
    assert api.cluster.submitted == []
    assert not list(api.home.jobs.glob("*"))


@pytest.mark.parametrize("path", ["/rl/jobs", "/learning/jobs"])
def test_a_number_that_is_too_large_starts_nothing(api: Api, path: str) -> None:
    file_id = api.upload(jsonl(LINE))["id"]
    rl = '"data": {"config": {"model": {"base": "crafter-tiny"}, "training": {"learning_rate": 1e999}}}'
    sft = f'"model": "crafter-tiny", "training_file_id": "{file_id}", "hyperparameters": {{"learning_rate": 1e999}}'
    body = f"{{{rl if path == '/rl/jobs' else sft}}}"
    told = api("POST", path, 422, content=body, headers={"Content-Type": "application/json"})
    assert "learning_rate: Input should be a finite number" in told["detail"]["error"]["message"]
    assert api.cluster.submitted == []


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/grpo-crafter",
        "http://example.com/grpo-crafter",
        "http://127.0.0.1:8000/other",
        "http://127.0.0.1:8000",
        "file:///etc/passwd",
        "x",
    ],
)
def test_only_task_apps_of_this_cluster_are_used(api: Api, url: str) -> None:
    assert api("POST", "/rl/verify_task_app", json={"endpoint_base_url": url})["any_ok"] is False
    api.rl(status=422, endpoint_base_url=url)
    assert api.cluster.submitted == []


def test_a_running_task_app_is_verified_without_a_key_in_the_answer(api: Api) -> None:
    found = api("POST", "/rl/verify_task_app", json={"endpoint_base_url": TASK_APP + "/"})
    assert found == {"any_ok": True, "candidates_first15": [], "attempts": [{"status": 200}]}


def test_an_idempotency_key_makes_one_job(api: Api) -> None:
    key = {"Idempotency-Key": "k-1"}
    first, again = api.rl(headers=key), api.rl(headers=key)
    assert first["job_id"] == again["job_id"]
    assert len(api.cluster.submitted) == 1
    api.rl({**RL, "training": {"iterations": 4}}, 409, key)
    assert api.rl(headers={"Idempotency-Key": "k-2"})["job_id"] != first["job_id"]


def test_a_cluster_that_is_gone_is_a_503(api: Api) -> None:
    api.cluster.gone = True
    assert api.rl(status=503)["detail"]["error"]["code"] == "prerequisite"


def test_files_are_kept_listed_and_fine_tuned_on(api: Api) -> None:
    kept = api.upload(jsonl(LINE, LINE), "../../etc/data.jsonl")
    assert (kept["filename"], kept["purpose"], kept["status"]) == ("data.jsonl", "fine-tune", "ready")
    assert api("GET", f"/files/{kept['id']}")["bytes"] == len(jsonl(LINE, LINE))
    assert [one["id"] for one in api("GET", "/v1/files?purpose=fine-tune")["files"]] == [kept["id"]]
    assert api("GET", "/v1/files?purpose=validation")["files"] == []
    api("GET", "/files/file-0", 404)
    body = {
        "model": "crafter-tiny",
        "training_type": "sft_offline",
        "training_file_id": kept["id"],
        "hyperparameters": {"n_epochs": 2, "batch_size": 4, "train_kind": "fft"},
        "metadata": {
            "effective_config": {"compute": {}, "data": {"topology": {}}, "training": {"mode": "sft_offline"}}
        },
    }
    created = api("POST", "/learning/jobs", 201, json=body)
    api("POST", f"/learning/jobs/{created['job_id']}/start", json={})
    ((kind, path, _),) = api.cluster.submitted
    config = load_config(SFTConfig, [path]).config
    assert (kind, config.hyperparameters.n_epochs, config.algorithm.variety) == ("sft", 2, "fft")
    assert Path(config.job.data).read_bytes() == jsonl(LINE, LINE)
    for changed, status in (
        ({"training_file_id": "/etc/passwd"}, 404),
        ({"training_file_id": "file-000000000000000000000000"}, 404),
        ({"model": "/etc"}, 422),
        ({"training_type": "dpo"}, 422),
    ):
        api("POST", "/learning/jobs", status, json={**body, **changed})
    assert len(api.cluster.submitted) == 1


def test_the_last_upload_of_the_same_bytes_gives_name_and_purpose(api: Api) -> None:
    first = api("POST", "/files", 201, files={"file": ("a.jsonl", jsonl(LINE))}, data={"purpose": "other"})
    again = api.upload(jsonl(LINE), "b.jsonl")
    assert (first["purpose"], again) == ("other", {**first, "filename": "b.jsonl", "purpose": "fine-tune"})
    assert api("GET", "/files?purpose=fine-tune")["files"] == [again]


@pytest.mark.parametrize("content", [b"no json\n", b'{"a": 1}\n', b"\xff\n"])
def test_a_file_that_cannot_be_trained_on_is_refused_with_its_line(api: Api, content: bytes) -> None:
    error = api.upload(content, status=422)["detail"]["error"]
    assert "line 1" in error["message"]
    assert str(api.home.state) not in error["message"]
    assert api("GET", "/files")["files"] == []


def test_a_large_file_is_taken_where_other_bodies_are_refused(api: Api) -> None:
    long = {"messages": [{"role": "user", "content": "x" * (2 << 20)}, {"role": "assistant", "content": "y"}]}
    assert api.upload(jsonl(long))["bytes"] > 2 << 20
    assert httpx2.post(f"{api.origin}/api/rl/jobs", headers=HEADERS, content=jsonl(long)).status_code == 413


def test_events_are_numbered_and_end_with_the_outcome(api: Api) -> None:
    job_id = api.rl()["job_id"]
    run_a_job(api.home, job_id)
    for route in (f"/rl/jobs/{job_id}/events", f"/v1/learning/jobs/{job_id}/events"):
        events = api("GET", route)["events"]
        assert [event["seq"] for event in events] == [1, 2, 3, 4]
        assert [event["type"] for event in events] == ["rl.connect", *["rl.train.step"] * 2, "rl.job.completed"]
        assert [one["seq"] for one in api("GET", f"{route}?since_seq=2&limit=1")["events"]] == [3]
        assert [one["seq"] for one in api("GET", f"{route}?after=3&since=3")["events"]] == [4]
        assert [one["seq"] for one in api("GET", f"{route}?limit=2")["events"]] == [3, 4]
        assert api("GET", f"{route}?since=2099-01-01T00:00:00Z")["events"] == []
    assert events[2]["message"] == "2/2 rewards 1"
    assert "run_dir" not in events[3]["data"]
    api("GET", f"/rl/jobs/{job_id}/events?since=yesterday", 422)


@pytest.mark.parametrize("ok", [True, False])
def test_the_end_is_told_as_soon_as_the_status_says_so(api: Api, ok: bool) -> None:
    job_id = api.rl()["job_id"]
    run_a_job(api.home, job_id, ok)
    told = api("GET", f"/rl/jobs/{job_id}/events")["events"]
    JobFiles(api.home.jobs / job_id).result_path.unlink()
    assert api("GET", f"/rl/jobs/{job_id}/events")["events"] == told


def test_metrics_come_in_whole_steps_that_begin_with_one(api: Api) -> None:
    job_id = api.rl()["job_id"]
    run_a_job(api.home, job_id)
    route = f"/rl/jobs/{job_id}/metrics"
    points = api("GET", route)["points"]
    shown = [(point["name"], point["value"], point["step"]) for point in points]
    both = [
        (name, value, step)
        for step in (1, 2)
        for name, value in (("train.reward_mean", (step - 1) / 4), ("train.loss", 0.5))
    ]
    assert shown == both
    assert {point["step"] for point in api("GET", f"{route}?after_step=1")["points"]} == {2}
    assert [point["step"] for point in api("GET", f"{route}?limit=1")["points"]] == [1, 1]
    assert [metric_name(key) for key in ("kl/mean", "lr", "eval_loss")] == [
        "train.kl_mean",
        "train.learning_rate",
        "val.loss",
    ]


def test_phases_runs_and_the_model_of_a_job(api: Api) -> None:
    job_id = api.rl()["job_id"]
    run_a_job(api.home, job_id)
    phases = api("GET", f"/rl/jobs/{job_id}/timeline")
    assert [one["phase"] for one in phases["timeline"]] == ["queued", "initializing", "training", "succeeded"]
    assert phases["events"] == phases["timeline"][:3]
    (run,) = api("GET", f"/v1/jobs/{job_id}/runs")["runs"]
    assert (run["run_number"], run["status"]) == (1, "succeeded")
    job = api("GET", f"/rl/jobs/{job_id}")
    assert (job["status"], job["fine_tuned_model"]) == ("succeeded", f"rl:crafter-tiny:{job_id}")
    other = api.rl()["job_id"]
    assert api("GET", f"/v1/jobs/{other}/runs")["runs"] == []
    run_a_job(api.home, other, ok=False)
    assert api("GET", f"/rl/jobs/{other}")["error"] == "it broke"
    assert api("GET", f"/rl/jobs/{other}/events")["events"][-1]["type"] == "rl.job.failed"


def test_listings_filter_and_begin_with_the_newest(api: Api) -> None:
    ids = [api.rl()["job_id"] for _ in range(3)]
    run_a_job(api.home, ids[0])
    with Registry(api.home.state_db) as registry:
        registry.create_job("eval", "e")
        registry.create_job("sft", "s", job_id="job_s")
        for name in ("fft:crafter-tiny:job_s", "rl:Qwen/Qwen3-4B:job_r"):
            registry.add_model(Model(name, "base", "full", f"/secret/{name}", "d", name[-5:]))
    listed = api("GET", "/v1/learning/jobs")["jobs"]
    assert [job["job_id"] for job in listed] == ["job_s", *reversed(ids)]
    assert [job["job_id"] for job in api("GET", "/v1/learning/jobs?status=succeeded")["jobs"]] == ids[:1]
    assert [job["job_id"] for job in api("GET", "/v1/learning/jobs?type=sft_offline")["jobs"]] == ["job_s"]
    assert len(api("GET", "/v1/learning/jobs?type=rl_online&limit=2")["jobs"]) == 2
    assert api("GET", "/v1/learning/jobs?created_after=2099-01-01T00:00:00%2B00:00")["jobs"] == []
    models = api("GET", "/v1/learning/models")["models"]
    assert [model["id"] for model in models] == ["rl:Qwen/Qwen3-4B:job_r", "fft:crafter-tiny:job_s"]
    assert "secret" not in json.dumps(models)
    assert [model["id"] for model in api("GET", "/v1/learning/models/rl")["models"]] == ["rl:Qwen/Qwen3-4B:job_r"]
    assert api("GET", "/v1/learning/models/rl:Qwen/Qwen3-4B:job_r")["base_model"] == "base"
    api("GET", "/v1/learning/models/rl:Qwen/Qwen3-4B:job_x", 404)
    api("GET", "/v1/learning/jobs?limit=0", 422)


def test_cancelling_stops_what_runs_only(api: Api) -> None:
    job_id = api.rl()["job_id"]
    assert "stop" in api("POST", f"/v1/learning/jobs/{job_id}/cancel")["message"]
    assert api.cluster.stopped == [job_id]
    run_a_job(api.home, job_id)
    assert "ended" in api("POST", f"/rl/jobs/{job_id}/cancel", json={})["message"]
    assert api.cluster.stopped == [job_id]
    api("POST", "/rl/jobs/job_0/cancel", 404)


def stream(api: Api, job_id: str, query: str = "", **headers: str) -> list[tuple[str, str, Any]]:
    """Id, type and data of every event of a job that has ended."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = httpx2.get(f"{api.origin}/api/rl/jobs/{job_id}/stream{query}", headers=HEADERS | named, timeout=20)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = [dict(line.split(": ", 1) for line in block.split("\n")) for block in answer.text.split("\n\n") if block]
    return [(block["id"], block["event"], json.loads(block["data"])) for block in blocks]


def test_a_stream_can_be_resumed_at_every_event(api: Api) -> None:
    job_id = api.rl()["job_id"]
    run_a_job(api.home, job_id)
    whole = stream(api, job_id)
    assert [kind for _, kind, _ in whole] == ["log"] * 4 + ["metric"] * 2 + ["status"]
    assert [place for place, _, _ in whole] == ["1--1", "2--1", "3--1", "4--1", "4-1", "4-2", "4-2"]
    for index, (place, _, _) in enumerate(whole[:6]):
        assert stream(api, job_id, last_event_id=place) == whole[index + 1 :]
        assert stream(api, job_id, f"?since_id={place}") == whole[index + 1 :]
    assert {kind for _, kind, _ in stream(api, job_id, "?types=metric")} == {"metric"}


def test_a_stream_sends_what_comes_while_it_is_open(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_http, "POLL_S", 0.05)
    job_id = api.rl()["job_id"]

    async def main() -> str:
        async with httpx2.AsyncClient(headers=HEADERS, timeout=20) as client:
            reading = asyncio.create_task(client.get(f"{api.origin}/api/rl/jobs/{job_id}/stream?heartbeat=1"))
            await asyncio.sleep(1.5)
            assert not reading.done()
            await asyncio.to_thread(run_a_job, api.home, job_id)
            return (await reading).text

    text = asyncio.run(main())
    assert ": keep-alive" in text
    assert text.index('"queued"') < text.index("rl.train.step") < text.index("rl.job.completed")
    assert '"status":"succeeded"' in text


def kill_a_job(home: Home, job_id: str) -> None:
    """What a job leaves behind that was killed with its cluster."""
    run = RunDir.create(home.runs, job_id, {})
    run.start_attempt(job_id)
    run.set_state(State.RUNNING)
    with Registry(home.state_db) as registry:
        registry.set_job_status(job_id, State.RUNNING)
    JobFiles(home.jobs / job_id).submitted_to("gone")  # from here on it can be settled


@pytest.mark.parametrize(
    "route", ["/rl/jobs/{}", "/rl/jobs", "/rl/jobs/{}/events", "/rl/jobs/{}/timeline", "/jobs/{}/runs"]
)
def test_a_killed_job_has_failed_on_every_route(api: Api, monkeypatch: pytest.MonkeyPatch, route: str) -> None:
    monkeypatch.setattr(settle_module, "EVERY_S", 0.0)
    job_id = api.rl()["job_id"]
    kill_a_job(api.home, job_id)
    answer = api("GET", route.format(job_id))
    found = {
        "/rl/jobs/{}": lambda: answer["status"],
        "/rl/jobs": lambda: answer["jobs"][0]["status"],
        "/rl/jobs/{}/events": lambda: answer["events"][-1]["type"].rpartition(".")[2],
        "/rl/jobs/{}/timeline": lambda: answer["timeline"][-1]["phase"],
        "/jobs/{}/runs": lambda: answer["runs"][0]["status"],
    }
    assert found[route]() == "failed"
    if route == "/jobs/{}/runs":
        assert answer["runs"][0]["ended_at"] == api("GET", f"/rl/jobs/{job_id}")["updated_at"]


def test_a_stream_ends_with_a_job_that_is_killed_meanwhile(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_http, "POLL_S", 0.05)
    monkeypatch.setattr(settle_module, "EVERY_S", 0.2)
    job_id = api.rl()["job_id"]

    async def main() -> str:
        async with httpx2.AsyncClient(headers=HEADERS, timeout=20) as client:
            reading = asyncio.create_task(client.get(f"{api.origin}/api/rl/jobs/{job_id}/stream"))
            await asyncio.sleep(0.5)
            assert not reading.done()
            await asyncio.to_thread(kill_a_job, api.home, job_id)
            return (await reading).text

    text = asyncio.run(main())
    assert text.index('"queued"') < text.index("rl.job.failed")
    assert '"status":"failed"' in text


def test_a_slow_cluster_holds_up_the_asking_route_only(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle_module, "EVERY_S", 0.0)
    job_id = api.rl()["job_id"]
    run_a_job(api.home, job_id)
    asked, answered, in_time = threading.Event(), threading.Event(), []

    def slow(_: Home) -> None:
        asked.set()
        in_time.append(answered.wait(5))

    monkeypatch.setattr(settle_module, "settle", slow)

    async def main() -> None:
        async with httpx2.AsyncClient(headers=HEADERS, timeout=20) as client:
            asking = asyncio.create_task(client.get(f"{api.origin}/api/rl/jobs/{job_id}/stream"))
            assert await asyncio.to_thread(asked.wait, 10)
            await client.get(f"{api.origin}/api/files")
            answered.set()
            await asking

    asyncio.run(main())
    assert in_time[0]


def test_streams_are_bounded_and_checked(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = api.rl()["job_id"]
    api("GET", "/rl/jobs/job_0/stream", 404)
    api("GET", f"/rl/jobs/{job_id}/stream?types=x", 422)
    api("GET", f"/rl/jobs/{job_id}/stream", 422, headers={"Last-Event-ID": "x"})
    monkeypatch.setattr(backend_http, "MAX_STREAMS", 0)
    answer = httpx2.get(f"{api.origin}/api/rl/jobs/{job_id}/stream", headers=HEADERS)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")


def test_event_ids_are_parsed_strictly() -> None:
    assert str(parse_place("12-3")) == "12-3"
    assert str(parse_place("12")) == "12--1"
    assert str(parse_place("4--1")) == "4--1"
    for text in ("-", "1-", "a", "1-2-3", "9" * 30):
        with pytest.raises(ConfigError):
            parse_place(text)
