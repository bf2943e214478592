"""Rollouts and evaluations of remote models: through the task app's host, against a real server, into the traces."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.eval import _result, _specs
from jobs.playing import play_all
from serve.task_host import TaskHost
from synth_ray.core.config import load_config, validate
from synth_ray.core.errors import ConfigError, PrerequisiteError
from synth_ray.core.origins import InferenceOrigins
from synth_ray.core.sections import EvalConfig
from synth_ray.core.types import Endpoint, EpisodeSpec, Provenance, Rollout, StopReason
from synth_ray.records.traces import TraceDB
from synth_ray.rollout.remote.client import ChatClient, ClientLimits
from synth_ray.rollout.remote.retries import RetryBudget, Waiter
from tests.unit.fake_provider import FakeProvider, Play, Sent, as_json, completion, fake_provider

KEY = "sk-proj-0123456789abcdefghij"
TASK = "grpo-crafter"


@pytest.fixture
def server() -> Iterator[FakeProvider]:
    with fake_provider() as one:
        yield one


async def _no_wait(seconds: float) -> None:
    await asyncio.sleep(0)


def host(server: FakeProvider) -> TaskHost:
    async def no_engine(requests: Any) -> Any:
        raise AssertionError("the engine was asked")

    chat = ChatClient(ClientLimits(budget=RetryBudget(attempts=3)), waiter=Waiter(sleep=_no_wait))
    return TaskHost(TASK, no_engine, InferenceOrigins([], {server.origin: KEY}), chat)


def spec(url: str, turns: int = 3, **endpoint: Any) -> EpisodeSpec:
    end = Endpoint(url, "fake-model", **endpoint)
    return EpisodeSpec("r1", "run", TASK, 0, "fake-model", "remote", endpoint=end, max_turns=turns)


def play(server: FakeProvider, one: EpisodeSpec | None = None) -> Rollout:
    async def main() -> Rollout:
        served = host(server)
        try:
            return await served.play(one or spec(server.origin))
        finally:
            await served.chat.aclose()

    return asyncio.run(main())


def test_a_remote_model_plays_an_episode(server: FakeProvider) -> None:
    rollout = play(server)
    assert (rollout.ok, rollout.provenance, rollout.model) == (True, Provenance.REMOTE, "fake-model")
    assert [turn.facts.actions for turn in rollout.turns] == [("move_right", "do")] * 3
    assert rollout.turns[0].reply.weights_name == "fake-model-2026"
    assert rollout.turns[0].reply.usage["output_tokens"] == 7
    assert [sent.body["seed"] for sent in server.requests] == [sent.body["seed"] for sent in again(server)]
    assert len({sent.body["seed"] for sent in server.requests}) == 3


def again(server: FakeProvider) -> list[Sent]:
    before = len(server.requests)
    play(server)
    mine, server.requests[:] = server.requests[before:], server.requests[:before]
    return mine


def test_nonsense_is_an_invalid_turn_and_the_episode_goes_on(server: FakeProvider) -> None:
    server.plays += [Play(200, b"<html>"), as_json({"choices": []}), as_json(completion({"content": "hm"}))]
    rollout = play(server, spec(server.origin, turns=4))
    assert rollout.ok
    assert [turn.facts.problem is None for turn in rollout.turns] == [False, False, False, True]
    assert [turn.reply.extra.get("problem") is None for turn in rollout.turns] == [False, False, True, True]
    assert rollout.invalid_turns == 3


def test_a_text_without_a_tool_call_is_read_too(server: FakeProvider) -> None:
    server.default = as_json(completion({"content": '<think>east</think>{"actions": ["move_left"]}'}))
    rollout = play(server)
    assert rollout.turns[0].facts.actions == ("move_left",)
    assert rollout.turns[0].reply.extra == {"reasoning": "east"}


def test_a_failure_ends_the_rollout_and_keeps_its_turns(server: FakeProvider) -> None:
    server.plays += [as_json(completion()), as_json({"error": {"message": f"wrong key {KEY}"}}, 401)]
    rollout = play(server)
    assert (rollout.stop_reason, len(rollout.turns)) == (StopReason.ERROR, 1)
    assert rollout.error is not None
    assert "turn 1" in rollout.error
    assert "check the key SYNTH_RAY_INFERENCE_KEYS" in rollout.error
    assert KEY not in rollout.error


def test_the_episodes_deadline_bounds_all_waits(server: FakeProvider) -> None:
    server.default = as_json({}, 429, Retry_After="60")
    rollout = play(server, replace(spec(server.origin), deadline_s=20))
    assert rollout.stop_reason is StopReason.ERROR
    assert "asks to wait 60 s" in (rollout.error or "")
    assert len(server.requests) == 1


def test_a_wrong_spec_is_told_before_anything_is_sent(server: FakeProvider) -> None:
    wrong = [
        spec("http://10.0.0.1/v1"),
        spec(server.origin, body={"stream": True}),
        EpisodeSpec("r1", "run", TASK, 0, "m", "remote"),
    ]
    for one in wrong:
        with pytest.raises(ConfigError):
            play(server, one)
    with pytest.raises(PrerequisiteError, match="OPENAI_API_KEY"):
        play(server, spec("https://api.openai.com/v1"))
    assert server.requests == []


class Handle:
    """What a Serve handle does, in process."""

    def __init__(self, served: TaskHost) -> None:
        self.play = SimpleNamespace(remote=served.play)


def evaluation(server: FakeProvider, **settings: Any) -> Any:
    policy = {"max_tokens": 99, "body": {"thinking_mode": "no_think"}}
    values = {"model": "fake-model", "provider": server.origin, "seeds": "0-3", "max_turns": 2, "policy_config": policy}
    config = validate(EvalConfig, {"eval": {**values, **settings}})
    return SimpleNamespace(
        config=config, job_id="job_1", name="job_1", resume=False, home=SimpleNamespace(project=Path("/p"))
    )


def test_an_evaluation_counts_failures_and_loses_no_finished_rollout(server: FakeProvider, tmp_path: Path) -> None:
    server.plays += [as_json({"error": {"message": f"no such model ({KEY})"}}, 404)]
    server.default = lambda sent: as_json(completion({"content": sent.headers["authorization"]}))
    job, done = evaluation(server), list[Rollout]()

    async def on_done(rollout: Rollout) -> None:
        done.append(rollout)

    async def main() -> list[Rollout]:
        served = host(server)
        try:
            return await play_all(Handle(served), _specs(job, None), 1, on_done)
        finally:
            await served.chat.aclose()

    rollouts = asyncio.run(main())
    result = _result(job, rollouts)
    assert (result["n"], result["errors"], len(done)) == (3, 1, 4)
    assert "no such model" in result["first_error"]
    assert len(server.requests) == 1 + 3 * 2  # A rollout of a remote model is not played again.
    assert server.requests[1].body["max_tokens"] == 99
    assert server.requests[1].body["chat_template_kwargs"] == {"enable_thinking": False}
    with TraceDB(tmp_path / "traces.db") as traces:
        assert traces.add(rollouts).new == 4
    assert KEY.encode() not in (tmp_path / "traces.db").read_bytes()
    assert all(rollout.provenance is Provenance.REMOTE for rollout in rollouts)


@pytest.mark.parametrize(
    ("settings", "url", "vendor"),
    [
        ({"provider": "openai"}, "https://api.openai.com/v1/chat/completions", "openai"),
        ({"provider": "groq"}, "https://api.groq.com/openai/v1/chat/completions", "groq"),
        ({"provider": "http://10.0.0.5:8000?cid=x"}, "http://10.0.0.5:8000/v1/chat/completions?cid=x", ""),
        (
            {"provider": "remote", "policy_config": {"inference_url": "https://llm.example"}},
            "https://llm.example/v1/chat/completions",
            "",
        ),
    ],
)
def test_the_provider_of_an_evaluation_names_an_endpoint(
    server: FakeProvider, settings: dict[str, Any], url: str, vendor: str
) -> None:
    (one, *_) = _specs(evaluation(server, **settings), None)
    assert one.provider == "remote"
    assert one.endpoint is not None
    assert (one.endpoint.url, one.endpoint.vendor, one.endpoint.model) == (url, vendor, "fake-model")


@pytest.mark.parametrize(
    "settings",
    [
        {"provider": "opnai"},
        {"provider": "remote"},
        {"provider": "http://user@h/v1"},
        {"provider": "openai", "policy_config": {"inference_url": "http://h:1"}},
        {"provider": "engine", "policy_config": {"inference_url": "http://h:1"}},
        {"provider": "remote", "policy_config": {"inference_url": "file:///x"}},
    ],
)
def test_a_wrong_provider_is_told_by_the_config(server: FakeProvider, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        evaluation(server, **settings)


def test_engine_and_teacher_need_no_endpoint(server: FakeProvider) -> None:
    for provider, model, means in (("engine", "m", "engine"), ("expert", "expert", "expert")):
        (one, *_) = _specs(evaluation(server, provider=provider, model=model), None)
        assert (one.provider, one.endpoint) == (means, None)


def test_the_shipped_config_is_valid(checkout: Path) -> None:
    config = load_config(EvalConfig, [checkout / "configs/crafter/eval_groq_qwen3_32b.toml"]).config.eval
    assert config.remote_url.startswith("https://api.groq.com/openai/v1/")
    assert config.env_config["system_prompt"] is True
