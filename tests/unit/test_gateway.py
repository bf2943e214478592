"""The gateway on a real server, driven by the unmodified `openai` client; the engine behind it is scripted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import openai
import pytest

from envs.crafter.task import CrafterTask
from synth_ray.core.errors import PolicyError, PrerequisiteError
from synth_ray.core.hashing import sha256_bytes
from synth_ray.core.paths import Home
from synth_ray.core.types import Message
from tests.unit.live_app import live_app
from tests.unit.scripted_gateway import (
    ADAPTER,
    KEY,
    MAX_LEN,
    MODEL,
    REPLY,
    RL,
    ScriptedEngine,
    gateway_app,
    gateway_home,
)

USER = [{"role": "user", "content": "face water . near water 4L"}]
TOOLS = CrafterTask().tools({})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return gateway_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def served(home: Home) -> Iterator[tuple[str, ScriptedEngine]]:
    engine = ScriptedEngine(home.models / MODEL)
    with live_app(gateway_app(home, engine)) as origin:
        yield origin, engine


@pytest.fixture
def engine(served: tuple[str, ScriptedEngine]) -> Iterator[ScriptedEngine]:
    engine = served[1]
    engine.reply = REPLY
    engine.asked.clear()
    yield engine
    engine.missing, engine.runs = 0, True


@pytest.fixture
def client(served: tuple[str, ScriptedEngine], engine: ScriptedEngine) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served[0]}/v1", api_key=KEY, max_retries=0, timeout=20) as client:
        yield client


def ask(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(**{"model": MODEL, "messages": USER, **more})


def post(origin: str, body: Any) -> httpx2.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx2.post(f"{origin}/v1/chat/completions", content=content, headers={"Authorization": f"Bearer {KEY}"})


def test_models_are_listed_with_their_parents(client: openai.OpenAI) -> None:
    models = {model.id: model for model in client.models.list()}
    assert set(models) == {MODEL, RL}
    found = client.models.retrieve(RL)
    assert (found.id, found.object, found.parent) == (RL, "model", MODEL)
    assert found.synth_ray["digest"] == sha256_bytes(ADAPTER)
    assert found.created > 0
    with pytest.raises(openai.NotFoundError, match="did you mean 'rl:crafter-tiny:job_b'"):
        client.models.retrieve("rl:crafter-tiny:job_c")


def test_a_completion_has_the_engines_text_tokens_and_weights(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    done = ask(client, seed=7, temperature=0.5, top_p=0.9, max_tokens=9, extra_body={"return_token_ids": True})
    (choice,) = done.choices
    assert (choice.message.content, choice.finish_reason) == (REPLY, "stop")
    (asked,) = engine.asked
    assert asked.prompt_ids == engine.chat.prompt_ids([Message("user", USER[0]["content"])])
    sampling = asked.sampling
    assert (sampling.seed, sampling.temperature, sampling.top_p, sampling.max_tokens) == (7, 0.5, 0.9, 9)
    ours = choice.model_extra["synth_ray"]
    ids = engine.chat.reply_ids(REPLY)
    assert tuple(ours["token_ids"]) == ids
    assert tuple(ours["prompt_token_ids"]) == asked.prompt_ids
    assert ours["logprobs"] == [-0.25 * (place + 1) for place in range(len(ids))]
    assert (ours["weights_name"], ours["weights_digest"]) == ("base", asked.weights.base_digest)
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (len(asked.prompt_ids), len(ids))
    assert done.object == "chat.completion"


def test_an_adapter_is_published_once_and_again_when_it_is_lost(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    ask(client, model=RL)
    ask(client, model=RL)
    assert engine.asked[-1].weights.name == "job_b@final"
    assert engine.asked[-1].weights.adapter_digest == sha256_bytes(ADAPTER)
    published = len(engine.published)
    engine.missing = 1
    assert ask(client, model=RL).choices[0].message.content == REPLY
    assert len(engine.published) == published + 1
    engine.missing = 2
    with pytest.raises(openai.InternalServerError, match="not in the store"):
        ask(client, model=RL)


def test_a_stream_adds_up_to_the_completion(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    options = {"include_usage": True}
    chunks = list(ask(client, stream=True, stream_options=options, logprobs=True, top_logprobs=2, n=2))
    whole = ask(client, logprobs=True, top_logprobs=2, n=2)
    for index in (0, 1):
        mine = [chunk.choices[0] for chunk in chunks if chunk.choices and chunk.choices[0].index == index]
        assert "".join(one.delta.content or "" for one in mine) == REPLY
        assert len(mine) > 4
        assert [one.finish_reason for one in mine if one.finish_reason] == ["stop"]
        entries = [entry for one in mine if one.logprobs for entry in one.logprobs.content]
        assert entries == whole.choices[index].logprobs.content
    assert mine[0].delta.role == "assistant"
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_log_probs_are_those_of_the_shown_tokens(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    (choice,) = ask(client, logprobs=True, top_logprobs=3).choices
    entries = choice.logprobs.content
    assert "".join(entry.token for entry in entries) == REPLY
    assert [entry.logprob for entry in entries] == [-0.25 * (place + 1) for place in range(len(entries))]
    assert all(bytes(entry.bytes).decode() == entry.token for entry in entries)
    assert all(len(entry.top_logprobs) == 3 for entry in entries)
    assert engine.asked[0].sampling.top_logprobs == 3
    assert ask(client).choices[0].logprobs is None


@pytest.mark.parametrize("stream", [False, True])
def test_tools_reach_the_template_and_calls_come_back(client: openai.OpenAI, stream: bool) -> None:
    asked = ask(client, tools=TOOLS, stream=stream)
    choice = list(asked) if stream else asked.choices[0]
    if stream:
        (calls,) = [one.choices[0].delta.tool_calls for one in choice if one.choices[0].delta.tool_calls]
        finish = choice[-1].choices[0].finish_reason
    else:
        calls, finish = choice.message.tool_calls, choice.finish_reason
        assert choice.message.content is None
    (call,) = calls
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "interact_many",
        {"actions": ["move_left", "do"]},
    )
    assert (call.type, finish) == ("function", "tool_calls")


def test_without_tools_or_with_none_the_text_stays_text(client: openai.OpenAI) -> None:
    for more in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        choice = ask(client, **more).choices[0]
        assert (choice.message.content, choice.message.tool_calls) == (REPLY, None)


def test_a_conversation_with_tool_calls_is_accepted(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    function = {"name": "interact_many", "arguments": '{"actions": ["do"]}'}
    call = {"id": "call_1", "type": "function", "function": function}
    parts = [{"type": "text", "text": "near"}, {"type": "text", "text": " water"}]
    messages = [
        {"role": "developer", "content": "do"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "near water"},
    ]
    assert ask(client, messages=messages, tools=TOOLS).choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("stop", ['"]}', ['", "', "never"], "do", "_left"])
def test_a_stop_string_cuts_text_and_log_probs(client: openai.OpenAI, engine: ScriptedEngine, stop: Any) -> None:
    (choice,) = ask(client, stop=stop, logprobs=True, extra_body={"return_token_ids": True}).choices
    first = stop if isinstance(stop, str) else stop[0]
    expected = REPLY[: REPLY.index(first)]
    assert (choice.message.content, choice.finish_reason) == (expected, "stop")
    assert "".join(entry.token for entry in choice.logprobs.content).startswith(expected)
    assert len(choice.logprobs.content) < len(engine.chat.reply_ids(REPLY)) - 1
    assert tuple(choice.model_extra["synth_ray"]["token_ids"]) == engine.chat.reply_ids(REPLY)


def test_choices_have_seeds_of_their_own_and_the_first_the_given_one(
    client: openai.OpenAI, engine: ScriptedEngine
) -> None:
    ask(client, n=3, seed=5)
    seeds = [request.sampling.seed for request in engine.asked]
    assert seeds[0] == 5
    assert len(set(seeds)) == 3
    assert len({request.request_id for request in engine.asked}) == 3


def test_the_reply_is_bounded_by_the_engines_length(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    ask(client, max_completion_tokens=100_000)
    ask(client)
    used = len(engine.asked[0].prompt_ids)
    assert [request.sampling.max_tokens for request in engine.asked] == [MAX_LEN - used] * 2
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, messages=[{"role": "user", "content": "water " * MAX_LEN}])
    assert refused.value.code == "context_length_exceeded"
    assert refused.value.param == "messages"


def test_unknown_fields_are_ignored(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    extra = {"thinking_budget": 9, "stop_after_tool_calls": 1, "best_of_breed": {"a": 1}, "extra_body": {"top_k": 3}}
    ask(client, user="u", store=False, metadata={"a": "b"}, extra_body=extra)
    assert engine.asked[0].sampling.top_k == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("chat_template", "{{ 1 }}"),
        ("chat_template_kwargs", {"chat_template": "x"}),
        ("chat_template_kwargs", {"enable_thinking": {"a": 1}}),
        ("mm_processor_kwargs", {"a": 1}),
        ("media_io_kwargs", {"a": 1}),
        ("prompt_embeds", "AAAA"),
        ("guided_json", {"type": "object"}),
        ("structured_outputs", {"regex": "(a+)+"}),
        ("response_format", {"type": "json_object"}),
        ("logits_processors", ["os.system"]),
        ("logit_bias", {"1": 5}),
        ("n", 17),
        ("n", 0),
        ("top_logprobs", 21),
        ("top_logprobs", 3),
        ("max_tokens", 0),
        ("temperature", -1),
        ("top_p", 0),
        ("stop", ["x"] * 17),
        ("presence_penalty", 1.0),
        ("seed", -1),
        ("tool_choice", {"type": "function", "function": {"name": "absent"}}),
    ],
)
def test_what_is_dangerous_or_cannot_be_followed_is_refused(
    client: openai.OpenAI, engine: ScriptedEngine, field: str, value: Any
) -> None:
    with pytest.raises(openai.BadRequestError):
        ask(client, extra_body={field: value})
    with pytest.raises(openai.BadRequestError):
        ask(client, extra_body={"extra_body": {field: value}})
    assert engine.asked == []


def test_pictures_are_refused_where_they_stand(client: openai.OpenAI) -> None:
    picture = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}
    with pytest.raises(openai.BadRequestError, match="reads text only") as refused:
        ask(client, messages=[{"role": "user", "content": [picture]}])
    assert refused.value.type == "invalid_request_error"


@pytest.mark.parametrize("name", ["gpt-4o", "/etc", "../x", "rl:crafter-tiny:job_c", "Qwen/Qwen3-4B"])
def test_an_unknown_model_is_not_found(client: openai.OpenAI, name: str) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        ask(client, model=name)
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize("key", ["wrong", KEY[:-1], KEY + "x"])
def test_a_wrong_key_is_an_authentication_error(served: tuple[str, ScriptedEngine], key: str) -> None:
    client = openai.OpenAI(base_url=f"{served[0]}/v1", api_key=key, max_retries=0)
    for call in (client.models.list, lambda: ask(client)):
        with pytest.raises(openai.AuthenticationError) as refused:
            call()
        assert refused.value.body["type"] == "authentication_error"
        assert KEY[:8] not in str(refused.value)


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        (lambda engine: setattr(engine, "reply", PolicyError("the engine core died")), openai.InternalServerError),
        (lambda engine: setattr(engine, "reply", PrerequisiteError("it can't start")), openai.InternalServerError),
    ],
)
def test_engine_failures_are_server_errors(
    client: openai.OpenAI, engine: ScriptedEngine, broken: Callable[[ScriptedEngine], None], error: type[Exception]
) -> None:
    broken(engine)
    for stream in (False, True):
        with pytest.raises(error) as refused:
            ask(client, stream=stream)
        assert refused.value.body["type"] == "server_error"  # type: ignore[attr-defined]


def test_without_an_engine_clients_are_told_when_to_come_back(home: Home) -> None:
    engine = ScriptedEngine(home.models / MODEL)
    engine.runs = False
    with live_app(gateway_app(home, engine)) as origin:
        answer = post(origin, {"model": MODEL, "messages": USER})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "no engine is running" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b'{"model": NaN}', 400),
        ([], 400),
        ({}, 400),
        ({"model": MODEL, "messages": []}, 400),
        ({"model": MODEL, "messages": [{"role": "king", "content": "x"}]}, 400),
        (b"[" * 100 + b"]" * 100, 400),
        (b" " * (1 << 20) + b"{}", 413),
    ],
)
def test_bad_bodies_get_openais_error_shape(served: tuple[str, ScriptedEngine], body: Any, status: int) -> None:
    answer = post(served[0], body)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_other_paths_and_methods_have_the_same_shape(served: tuple[str, ScriptedEngine]) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    for method, path, status in (("GET", "/v1/embeddings", 404), ("DELETE", "/v1/models", 405)):
        answer = httpx2.request(method, served[0] + path, headers=headers)
        assert (answer.status_code, set(answer.json())) == (status, {"error"})
    assert httpx2.get(f"{served[0]}/").status_code == 200


def test_server_sent_events_are_as_openai_sends_them(
    served: tuple[str, ScriptedEngine], engine: ScriptedEngine
) -> None:
    answer = post(served[0], {"model": MODEL, "messages": USER, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = answer.text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    assert all(line.startswith("data: {") for line in lines[:-2])
    assert all(json.loads(line[6:])["object"] == "chat.completion.chunk" for line in lines[:-2])
