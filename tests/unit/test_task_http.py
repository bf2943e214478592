"""The task app's HTTP side, in process: authentication, errors, rollouts, traces, environments, OpenEnv."""

import asyncio
import itertools
import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from serve.call_batcher import Answer
from serve.live_envs import LiveEnvs
from serve.task_host import TaskHost
from serve.task_http import create_app
from synth_ray.core.errors import PolicyError, SynthRayError
from synth_ray.core.secrets import KeyRing
from synth_ray.core.types import EpisodeSpec, GenerateRequest, Message, Reply
from synth_ray.records.traces import TraceDB
from synth_ray.rollout.policy import Policy
from synth_ray.rollout.task import Episode
from synth_ray.rollout.tool_calls import openai_call

KEY, OLD, ALIAS = "right-key-of-this-app-0123", "rotated-out-key-0123456", "alias-key-of-this-app-0"
AUTH = {"X-API-Key": KEY}
NUMBERS = itertools.count()
EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "new-environment"
BODY = {"env": {"seed": 3}, "policy": {"config": {"provider": "expert"}}, "ops": ["agent", "env"] * 3}


class EchoModel:
    """A remote model that always walks right; it keeps what it was asked."""

    def __init__(self, spec: EpisodeSpec) -> None:
        self.spec = spec

    async def reply(self, messages: Sequence[Message], turn: int, episode: Episode) -> Reply:
        if self.spec.model == "broken":
            raise PolicyError("the endpoint is broken")
        if self.spec.model == "slow":
            await asyncio.sleep(0.02)
        call = {"id": "call_1", "function": {"name": "interact_many", "arguments": '{"actions": ["move_right"]}'}}
        return Reply(
            text="I walk \ud83d.",
            extra={"tool_calls": [call], "reasoning": "because"},
            prompt_ids=() if self.spec.model == "without-ids" else (1, 2),
            token_ids=() if self.spec.model == "without-ids" else (3,),
            logprobs=() if self.spec.model == "without-logprobs" else (float("-inf"),),
            usage={"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3},
        )


class Host(TaskHost):
    """A task host whose remote models need no network."""

    def __init__(self) -> None:
        super().__init__("grpo-crafter", no_engine)
        self.specs: list[EpisodeSpec] = []

    def _policy(self, spec: EpisodeSpec) -> Policy:
        self.specs.append(spec)
        return EchoModel(spec) if spec.provider == "remote" else super()._policy(spec)


async def no_engine(requests: Sequence[GenerateRequest]) -> Sequence[Answer]:
    raise AssertionError("nothing here asks the engine")


@pytest.fixture(scope="module")
def host() -> Host:
    return Host()


@pytest.fixture(scope="module")
def app(host: Host) -> FastAPI:
    return create_app(host, KeyRing([KEY, ALIAS]))


@pytest.fixture(scope="module")
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A task of the user's own, which has no more than the documentation's."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    app = create_app(TaskHost("fetch_env:FetchTask", no_engine), KeyRing([KEY]))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def rollout(client: TestClient, **changes: Any) -> Any:
    content = json.dumps({**BODY, "run_id": f"run-{next(NUMBERS)}", "mode": "eval", **changes})
    return client.post("/rollout", headers={**AUTH, "content-type": "application/json"}, content=content)


def remote(url: str = "http://m.test/v1/chat/completions?cid=trace_7", **more: Any) -> dict[str, Any]:
    """A policy block."""
    return {"policy_name": "crafter-react", "config": {"inference_url": url, "model": "m", **more}}


def error_of(answer: Any) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["detail"]["error"]
    assert {"code", "message"} <= set(error)
    return error


# Authentication


def test_every_route_with_every_key_in_every_spelling(app: FastAPI, client: TestClient) -> None:
    refusals = set()
    routes = [(method, path) for path, item in app.openapi()["paths"].items() for method in item if path != "/"]
    assert len(routes) >= 16
    for (method, path), key, spelling in itertools.product(
        [*routes, ("get", "/openapi.json"), ("get", "/nowhere")], ("", "wrong", KEY[:-1], OLD, KEY, ALIAS), range(3)
    ):
        headers = [{"X-API-Key": key}, {"X-API-Keys": f"other, {key}"}, {"Authorization": f"Bearer {key}"}][spelling]
        answer = client.request(method, path.replace("{env_name}", "crafter"), headers=headers)
        told = answer.text + repr(sorted(answer.headers.items()))
        assert not any(secret in told for secret in (KEY, OLD, ALIAS, KEY[:6], OLD[:6], ALIAS[:6])), path
        if key in (KEY, ALIAS):
            assert answer.status_code not in (401, 403), (method, path, spelling)
        else:
            assert answer.status_code == 401, (method, path, spelling)
            refusals.add((answer.text, tuple(sorted(answer.headers.items()))))
    assert len(refusals) == 1


def test_only_liveness_is_open(app: FastAPI, client: TestClient) -> None:
    assert client.get("/").json() == {"status": "ok", "service": "grpo-crafter"}
    assert client.head("/").status_code == 200
    for path, item in app.openapi()["paths"].items():
        for method, operation in item.items():
            names = {name for scheme in operation.get("security", []) for name in scheme}
            assert names == (set() if path == "/" else {"key", "keys", "bearer"}), (method, path)


# Errors


@pytest.mark.parametrize(
    ("changes", "status", "told"),
    [
        ({"mode": None}, 422, "mode"),
        ({"ops": ["env", "agent"]}, 422, "ops[0]"),
        ({"ops": ["agent", "dance"]}, 422, "ops[1]"),
        ({"ops": "agent"}, 422, "ops"),
        ({"ops": [{"type": "policy"}, {"op": "walk"}]}, 422, "ops[1]"),
        ({"env": {"seed": "3"}}, 422, "env.seed"),
        ({"env": {"seed": -1}}, 422, "env.seed"),
        ({"env": {"config": {"env_params": {"max_steps_per_episode": 0}}}}, 422, "max_steps_per_episode"),
        ({"env": {"config": {"no_such_setting": 1}}}, 422, "no_such_setting"),
        ({"env": {"env_name": "chess"}}, 404, "chess"),
        ({"policy": {}}, 422, "who plays"),
        ({"policy": {"config": {"provider": "export"}}}, 422, "who plays"),
        ({"policy": {"config": {"inference_url": "http://h/"}}}, 422, "model"),
        ({"policy": remote("ftp://h/")}, 422, "http"),
        ({"policy": remote("http://user:secret@h/")}, 422, "without user"),
        ({"policy": remote("http://h:x/")}, 422, "URL"),
        ({"policy": remote("http://h/a b")}, 422, "spaces"),
        ({"policy": remote(temperature="hot")}, 422, "temperature"),
        ({"policy": remote("http://h/"), "mode": "rl"}, 422, "correlation id"),
        ({"policy": remote(model="broken")}, 502, "broken"),
        ({"record": {"trace_format": "xml"}}, 422, "trace_format"),
        ({"safety": {"max_ops": 1}}, 422, "max_ops"),
        ({"safety": {"max_time_s": 0}}, 422, "max_time_s"),
        ({"safety": {"max_time_s": 1e-9}}, 504, "within"),
        ({"run_id": "\ud83d"}, 422, "run_id"),
    ],
)
def test_what_is_wrong_is_told_in_one_shape(
    client: TestClient, changes: dict[str, Any], status: int, told: str
) -> None:
    answer = rollout(client, **changes)
    error = error_of(answer)
    assert answer.status_code == status
    assert told in error["message"] + error["hint"]
    assert "secret" not in answer.text


def test_errors_of_the_framework_have_the_shape_too(client: TestClient) -> None:
    assert error_of(client.get("/nowhere", headers=AUTH))["code"] == "not_found"
    assert error_of(client.get("/rollout", headers=AUTH))["code"] == "method_not_allowed"
    json_headers = {**AUTH, "content-type": "application/json"}
    invalid = client.post("/rollout", headers=json_headers, content=b'{"run_id": 1}')
    assert invalid.status_code == 422
    assert error_of(invalid)["code"] == "invalid_request"
    assert {tuple(one["loc"]) for one in error_of(invalid)["errors"]} >= {("body", "run_id"), ("body", "mode")}
    for broken in (b"{", b"\xff", b"[" * 100_000, b'{"run_id": NaN}'):
        answer = client.post("/rollout", headers=json_headers, content=broken)
        assert 400 <= answer.status_code < 500
        error_of(answer)


def test_a_mistake_of_ours_is_a_500_without_internals(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(spec: EpisodeSpec) -> Any:
        raise RuntimeError("an internal detail")

    async def corrupt(spec: EpisodeSpec) -> Any:
        raise SynthRayError("told on purpose", "a hint")

    with TestClient(create_app(host, KeyRing([KEY])), raise_server_exceptions=False) as client:
        monkeypatch.setattr(host, "play", play)
        answer = rollout(client)
        assert answer.status_code == 500
        assert "internal detail" not in answer.text
        assert error_of(answer)["code"] == "internal"
        monkeypatch.setattr(host, "play", corrupt)
        assert error_of(rollout(client))["hint"] == "a hint"


# Rollouts


def test_expert_rollout_has_every_field_of_the_contract(client: TestClient) -> None:
    data = rollout(client, run_id="r1").json()
    assert data["run_id"] == "r1"
    assert data["ops_executed"] == 6
    assert data["aborted"] is False
    assert data["trace"] is None
    assert data["pipeline_metadata"]["trace_correlation_id"] == data["trace_correlation_id"] == "trace_r1"
    assert "?cid=trace_r1" in data["pipeline_metadata"]["inference_url"]
    (trajectory,) = data["trajectories"]
    assert trajectory["length"] == len(trajectory["steps"]) == data["metrics"]["num_steps"] == 3
    assert trajectory["final"]["observation"]["text"]
    for index, step in enumerate(trajectory["steps"]):
        assert step["obs"]["text"]
        assert step["tool_calls"][0]["tool_name"] == "interact_many"
        assert step["info"]["meta"]["inference_url"] == trajectory["inference_url"]
        assert step["info"]["meta"]["turn_index"] == index
        assert step["truncated"] is (index == 2)
    rewards = [step["reward"] for step in trajectory["steps"]]
    assert sum(rewards) == data["metrics"]["mean_return"] == data["metrics"]["episode_returns"][0]
    assert trajectory["steps"][1]["obs"]["text"] != trajectory["steps"][0]["obs"]["text"]


@pytest.mark.parametrize(
    ("changes", "turns"),
    [
        ({"ops": []}, 10),
        ({"ops": ["policy", "step", "model", "environment", {"type": "agent"}]}, 3),
        ({"ops": [], "policy": {"config": {"provider": "expert", "max_llm_calls": 4}}}, 4),
        ({"env": {"config": {"env_params": {"max_steps_per_episode": 2}}}}, 2),
        ({"safety": {"max_ops": 5}}, 2),
        ({"ops": [], "safety": {"max_ops": 2}}, 1),
    ],
)
def test_the_smallest_limit_counts(client: TestClient, changes: dict[str, Any], turns: int) -> None:
    assert rollout(client, **changes).json()["metrics"]["num_steps"] == turns


def test_the_deadline_is_enforced(client: TestClient) -> None:
    policy = remote(model="slow")
    answer = rollout(client, ops=["agent", "env"] * 1000, policy=policy, safety={"max_time_s": 0.5}).json()
    assert answer["aborted"] is True
    assert answer["trajectories"][0]["stop_reason"] == "deadline"
    assert 0 < answer["metrics"]["num_steps"] < 1000


def test_done_is_true_when_the_world_ends(client: TestClient) -> None:
    data = rollout(client, ops=["agent", "env"] * 20, env={"seed": 3, "config": {"length": 7}}).json()
    dones = [step["done"] for step in data["trajectories"][0]["steps"]]
    assert dones == [False] * (len(dones) - 1) + [True]
    assert len(dones) < 20
    assert data["trajectories"][0]["steps"][-1]["truncated"] is False


def test_an_unset_record_keeps_trajectories_and_leaves_out_the_trace(client: TestClient) -> None:
    assert rollout(client, record={"trajectories": False}).json()["trajectories"] == []
    assert rollout(client, record={"return_trace": True}).json()["trace"]["lm_calls"]


@pytest.mark.parametrize(
    ("url", "more", "target", "cid"),
    [
        ("http://m.test?cid=trace_1", {}, "http://m.test/v1/chat/completions?cid=trace_1", "trace_1"),
        ("http://m.test/v1/?trace=smoke-1", {}, "http://m.test/v1/chat/completions?cid=smoke-1", "smoke-1"),
        ("http://m.test/p/chat/completions?a=1&cid=x", {}, "http://m.test/p/chat/completions?cid=x&a=1", "x"),
        ("http://m.test?cid=x/v1/chat/completions", {}, "http://m.test/v1/chat/completions?cid=x", "x"),
        ("http://m.test?cid=x", {"trace": "y"}, "http://m.test/v1/chat/completions?cid=y", "y"),
        ("http://m.test", {"trace_correlation_id": "z", "trace": "y"}, "http://m.test/v1/chat/completions?cid=z", "z"),
        ("http://m.test", {"trace": "a&b"}, "http://m.test/v1/chat/completions?cid=a%26b", "a&b"),
    ],
)
def test_rl_mode_completes_the_url_and_finds_the_correlation_id(
    client: TestClient, host: Host, url: str, more: dict[str, Any], target: str, cid: str
) -> None:
    data = rollout(client, mode="rl", policy=remote(url, **more)).json()
    endpoint = host.specs[-1].endpoint
    assert endpoint is not None
    assert (endpoint.url, endpoint.correlation_id) == (target, cid)
    assert data["trace_correlation_id"] == cid
    assert data["pipeline_metadata"]["inference_url"] == target


def test_eval_mode_leaves_the_query_alone(client: TestClient, host: Host) -> None:
    policy = remote("https://m.test/v1?x=1", provider="openai", thinking_mode="think")
    data = rollout(client, run_id="r2", policy=policy).json()
    endpoint = host.specs[-1].endpoint
    assert endpoint is not None
    assert endpoint.url == "https://m.test/v1/chat/completions?x=1"
    assert endpoint.vendor == "openai"
    assert endpoint.body == {"thinking_mode": "think"}
    assert host.specs[-1].sampling.temperature == 0.2
    assert data["pipeline_metadata"]["inference_url"].endswith("?cid=trace_r2&x=1")


def test_logprobs_come_on_request_and_are_json(client: TestClient) -> None:
    with_them = rollout(client, policy=remote(), record={"logprobs": True})
    meta = with_them.json()["trajectories"][0]["steps"][0]["info"]["meta"]
    assert (meta["logprobs"], meta["token_ids"], meta["prompt_token_ids"]) == ([None], [3], [1, 2])
    assert "Infinity" not in with_them.text
    without = rollout(client, policy=remote()).json()["trajectories"][0]["steps"][0]
    assert not {"logprobs", "token_ids", "prompt_token_ids"} & set(without["info"]["meta"])
    assert without["tool_calls"] == [
        {"tool_name": "interact_many", "arguments": {"actions": ["move_right"]}, "id": "call_1"}
    ]


def test_the_endpoint_is_asked_for_what_the_answer_shall_hold(client: TestClient, host: Host) -> None:
    for changes, body in (
        ({"policy": remote()}, {}),
        ({"policy": remote(use_tools=False)}, {"use_tools": False}),
        ({"policy": remote(use_tools=True, logprobs=True)}, {"use_tools": True, "logprobs": True}),
        ({"policy": remote(), "record": {"logprobs": True}}, {"logprobs": True, "return_token_ids": True}),
    ):
        assert rollout(client, **changes).status_code == 200
        endpoint = host.specs[-1].endpoint
        assert endpoint is not None and endpoint.body == body


def test_each_kind_of_tokens_comes_if_the_endpoint_gave_it(client: TestClient) -> None:
    answer = rollout(client, policy=remote(model="without-ids"), record={"logprobs": True}).json()
    meta = answer["trajectories"][0]["steps"][0]["info"]["meta"]
    assert "logprobs" in meta and not {"token_ids", "prompt_token_ids"} & set(meta)
    answer = rollout(client, policy=remote(model="without-logprobs"), record={"logprobs": True}).json()
    meta = answer["trajectories"][0]["steps"][0]["info"]["meta"]
    assert (meta["token_ids"], meta["prompt_token_ids"]) == ([3], [1, 2]) and "logprobs" not in meta


# Traces


@pytest.mark.parametrize("trace_format", ["full", "structured"])
def test_full_traces_hold_every_prompt_reply_and_time(client: TestClient, trace_format: str) -> None:
    record = {"return_trace": True, "trace_format": trace_format}
    trace = rollout(client, run_id="r3", policy=remote(), record=record).json()["trace"]
    assert trace["session_id"] == "r3"
    assert len(trace["session_time_steps"]) == 3
    assert len(trace["event_history"]) == 6
    times = [step[key] for step in trace["session_time_steps"] for key in ("timestamp", "completed_at")]
    parsed = [datetime.fromisoformat(text) for text in [trace["created_at"], *times]]
    assert parsed == sorted(parsed)
    assert all(time.tzinfo for time in parsed)
    (call,) = trace["event_history"][0]["call_records"]
    assert call["output_text"] == "I walk \ud83d."
    assert call["output_tool_calls"][0]["name"] == "interact_many"
    assert json.loads(call["output_tool_calls"][0]["arguments_json"]) == {"actions": ["move_right"]}
    assert call["usage"] == {"input_tokens": 2, "output_tokens": 1, "total_tokens": 3}
    kinds = [message["message_type"] for message in trace["markov_blanket_message_history"]]
    assert kinds == ["user", "assistant"] * 3
    answer = json.loads(trace["markov_blanket_message_history"][1]["content"]["json_payload"])
    assert (answer["content"], answer["reasoning"]) == ("I walk \ud83d.", "because")


def test_compact_traces_hold_numbers_only(client: TestClient) -> None:
    record = {"return_trace": True, "trace_format": "compact"}
    data = rollout(client, ops=["agent", "env"] * 10, record=record).json()
    trace = data["trace"]
    assert (trace["events_count"], trace["messages_count"]) == (20, 20)
    assert [call["turn"] for call in trace["lm_calls"]] == list(range(10))
    assert sum(one["unique_delta"] for one in trace["decision_rewards"]) == data["metrics"]["mean_return"] > 0
    assert len(json.dumps(trace)) < 6000


# Where rollouts are kept


def test_a_kept_id_stands_for_one_request_also_after_a_restart(tmp_path: Path) -> None:
    with TraceDB(tmp_path / "rollouts.db") as traces:

        def asked(**changes: Any) -> Any:
            restarted = create_app(Host(), KeyRing([KEY]), traces)
            return rollout(TestClient(restarted, raise_server_exceptions=False), run_id="a", **changes)

        seen = [[step["obs"] for step in asked().json()["trajectories"][0]["steps"]] for _ in range(2)]
        assert seen[0] == seen[1]
        assert asked(env={"seed": 3, "env_name": "crafter"}).status_code == 200
        for other in ({"env": {"seed": 4}}, {"ops": ["agent", "env"]}, {"policy": remote()}):
            answer = asked(**other)
            assert (answer.status_code, error_of(answer)["code"]) == (409, "conflict")
        assert [(one.rollout_id, one.task, one.seed) for one in traces.sessions()] == [("a", "grpo-crafter", 3)]


def test_a_rollout_is_of_the_served_task_however_it_was_called(client: TestClient, host: Host, own: TestClient) -> None:
    answers = [rollout(client, run_id="one", env={"seed": 3, "env_name": name}) for name in (None, "CrafterClassic")]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert host.specs[-1].task == "grpo-crafter"
    answers = [rollout(own, run_id="one", env={"seed": 3, "env_name": name}) for name in (None, "fetch_env.FetchTask")]
    assert [answer.json()["trajectories"][0]["env_id"] for answer in answers] == ["fetch_env:FetchTask:3"] * 2


# What the task says of itself


def test_info_and_task_info(client: TestClient) -> None:
    assert client.get("/health", headers=AUTH).json()["healthy"] is True
    assert client.post("/done", headers=AUTH).json() == {"ok": True, "service": "grpo-crafter"}
    info = client.get("/info", headers=AUTH).json()
    assert info["service"]["task"]["id"] == "grpo-crafter"
    assert {"dataset", "rubrics", "inference", "limits"} <= set(info)
    assert client.get("/task_info", headers=AUTH).json()["taskset"]["seed_range"] == [0, 2**31 - 1]
    one = client.get("/task_info?seed=5", headers=AUTH).json()
    assert one["dataset"]["seed"] == one["observation"]["seed"] == 5
    assert one["environment"] == "crafter"
    several = client.get("/task_info?seed=5&seeds=6&seeds=7", headers=AUTH).json()
    assert [each["dataset"]["seed"] for each in several] == [5, 6, 7]
    assert error_of(client.get("/task_info?seed=-1", headers=AUTH))["code"] == "invalid_request"
    assert client.get("/task_info?" + "&".join(["seed=1"] * 300), headers=AUTH).status_code == 422
    for no_integer in ("0.0", "1_000", "", "one", "\u0661"):
        assert client.get("/task_info", params={"seed": no_integer}, headers=AUTH).status_code == 422, no_integer


def test_a_task_of_ones_own_need_not_say_much(own: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fetch_env.FetchTask.info", lambda task, seeds=(): {"task": {"id": "fetch"}})
    about = {"id": "fetch", "name": "fetch", "version": "", "description": ""}
    assert own.get("/info", headers=AUTH).json()["service"]["task"] == about
    assert own.get("/task_info", headers=AUTH).json()["taskset"]["id"] == "fetch_procedural"
    one = own.get("/task_info?seed=5", headers=AUTH).json()
    assert (one["task"], one["environment"], one["dataset"]["seed"]) == (about, "fetch", 5)
    told = {"name": "fetch", "description": "", "version": ""}
    assert own.get("/metadata", headers=AUTH).json() == told


# Environments by hand


def test_lifecycle_routes(client: TestClient) -> None:
    def post(path: str, **body: Any) -> Any:
        return client.post(path, headers=AUTH, json=body)

    made = post("/env/create", env_name="crafter", seed=3, config={"renderer": "compact"}).json()
    stepped = post("/env/step", env_id=made["env_id"], tool_calls=[{"tool": "interact", "args": {"action": "left"}}])
    assert stepped.json()["info"]["actions"] == ["move_left"]
    assert stepped.json()["step_idx"] == 1
    again = post("/env/reset", env_id=made["env_id"]).json()
    assert (again["observation"], again["step_idx"]) == (made["observation"], 0)
    assert post("/env/terminate", env_id=made["env_id"]).json() == {"ok": True}
    assert post("/env/step", env_id=made["env_id"], tool_calls=[]).status_code == 404
    assert post("/env/create", env_name="chess").status_code == 404

    named = post("/env/CrafterClassic/initialize", seed=3, world_config={"difficulty": "easy"}).json()
    assert named["observation"] == made["observation"]
    action = {"actions": ["noop", "noop"]}
    assert post("/env/CrafterClassic/step", env_id=named["env_id"], action=action).json()["info"]["env_steps"] == 2
    calls = {"tool_calls": [{"function": {"name": "interact_many", "arguments": '{"actions": ["do"]}'}}]}
    assert post("/env/crafter/step", env_id=named["env_id"], action=calls).json()["info"]["actions"] == ["do"]
    assert post("/env/crafter/terminate", env_id=named["env_id"]).json() == {"ok": True}


def test_a_picture_is_in_the_observation(client: TestClient) -> None:
    def made(**config: Any) -> dict[str, Any]:
        body = {"env_name": "crafter", "seed": 3, "config": config}
        answer = client.post("/env/create", headers=AUTH, json=body).json()
        client.post("/env/terminate", headers=AUTH, json={"env_id": answer["env_id"]})
        observation: dict[str, Any] = answer["observation"]
        return observation

    assert set(made()) == {"text", "achievements"}
    seen, only_seen = made(use_vision=True), made(image_only_mode=True)
    assert seen["text"] and not only_seen["text"]
    assert seen["image"] == only_seen["image"]
    assert seen["image"].startswith("data:image/png;base64,")


def test_a_task_that_reads_text_is_stepped_by_tool_calls(own: TestClient) -> None:
    def post(path: str, **body: Any) -> Any:
        return own.post(path, headers=AUTH, json=body).json()

    env_id = post("/env/create", env_name="fetch")["env_id"]
    calls = [{"tool": "interact_many", "args": {"actions": ["do", "move_left"]}}]
    assert post("/env/step", env_id=env_id, tool_calls=calls)["info"]["actions"] == ["do", "move_left"]
    stepped = post("/env/fetch/step", env_id=env_id, action={"actions": ["do"]})
    assert (stepped["info"]["actions"], stepped["info"]["problem"]) == (["do"], None)


@pytest.mark.parametrize(
    "call",
    [
        {"tool": "jump", "args": {"actions": ["do"]}},
        {"tool": "interact_many", "args": {"actions": []}},
        {"tool": "interact_many", "args": {"actions": ["jump"]}},
        {"tool": "interact_many", "args": {"action": "jump", "actions": ["do"]}},
        {"tool": "interact_many", "args": '{"actions": "do"}'},
    ],
)
def test_a_task_that_reads_tool_calls_reads_nothing_else(host: Host, call: dict[str, Any]) -> None:
    async def check() -> None:
        calls = [openai_call(call)]
        env = await LiveEnvs(host.task).create(3, {})
        assert await env.step(calls) == host.task.open(3, {}, 10).step("", {"tool_calls": calls})

    asyncio.run(check())


def test_living_environments_are_bounded_and_age(host: Host) -> None:
    async def check() -> None:
        envs = LiveEnvs(host.task, limit=2, idle_s=900)
        one, _ = await envs.create(1, {}), await envs.create(2, {})
        with pytest.raises(SynthRayError, match="2 environments are alive"):
            await envs.create(3, {})
        envs.terminate(one.env_id)
        last = await envs.create(3, {})
        last.used_at -= 1000
        with pytest.raises(SynthRayError, match="no such environment"):
            envs.get(last.env_id)
        await envs.create(4, {})

    asyncio.run(check())


def test_openenv_session(client: TestClient) -> None:
    assert set(client.get("/schema", headers=AUTH).json()) == {"action", "observation", "state"}
    assert client.get("/metadata", headers=AUTH).json()["name"] == "Crafter"
    fresh = client.post("/reset", headers=AUTH, json={"seed": 3, "episode_id": "mine"})
    session = {**AUTH, "X-Session-Id": fresh.headers["X-Session-Id"]}
    assert (fresh.json()["done"], fresh.json()["reward"]) == (False, None)
    step = client.post("/step", headers=session, json={"action": {"actions": ["move_left"]}, "timeout_s": 1})
    assert step.json()["done"] is False
    text = client.post("/step", headers=session, json={"action": {"text": 'so: {"actions": ["noop"]}'}})
    assert text.status_code == 200
    assert client.get("/state", headers=session).json()["step_count"] == 2
    assert client.post("/reset", headers=session).json()["observation"] == fresh.json()["observation"]
    assert client.post("/reset", headers=session, json={"seed": 4}).json()["observation"] != fresh.json()["observation"]
    assert client.get("/state", headers=session).json()["seed"] == 4
    for settings in ({"renderer": "seed"}, {"seed": 3, "bogus": 1}):
        assert "session" in error_of(client.post("/reset", headers=session, json=settings))["message"]
    assert client.get("/state", headers=session).json()["seed"] == 4
    assert client.post("/step", headers=AUTH, json={"action": {}}).status_code == 422
    assert client.post("/step", headers={**AUTH, "X-Session-Id": "no"}, json={"action": {}}).status_code == 404


def test_step_rewards_are_told_per_turn_per_sample_and_in_sum(client: TestClient) -> None:
    block = {"enabled": True, "mode": "decision_stepwise", "strategy": "per_achievement", "indicator_lambda": 0.5}
    policy = {"config": {"provider": "expert", "step_rewards": block}}
    data = rollout(client, ops=["agent", "env"] * 10, policy=policy).json()
    (trajectory,) = data["trajectories"]
    told = [step["info"]["stepwise"] for step in trajectory["steps"]]
    details = data["metrics"]["details"]["stepwise"]
    assert sum(one["reward"] for one in told) == pytest.approx(details["reward_sum"])
    assert [sample["r_i"] for sample in trajectory["decision_samples"]] == [one["reward"] for one in told]
    assert details["unique_achievements_total"] == data["metrics"]["mean_return"] > 0
    assert details["resource_reward"] > 0
    assert [step["info"]["meta"]["decision_rewards"]["turn"] for step in trajectory["steps"]] == list(range(1, 11))
    plain = rollout(client).json()["trajectories"][0]
    assert plain["decision_samples"] is None and "stepwise" not in plain["steps"][0]["info"]
