"""The unmodified `openai` client against our gateway, whichever version is on the path. Prints one line per check.

Arguments: base URL, a base model, an adapter. The key is in OPENAI_API_KEY; the engine says ``REPLY`` to everything.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

import openai

URL, BASE, RL = sys.argv[1:4]
REPLY = '{"actions": ["move_left", "do"]}'
ACTIONS = {"type": "array", "items": {"type": "string"}}
PARAMETERS = {"type": "object", "properties": {"actions": ACTIONS}, "required": ["actions"]}
TOOLS: Any = [{"type": "function", "function": {"name": "interact_many", "parameters": PARAMETERS}}]
MESSAGES: Any = [{"role": "user", "content": "face water . near water 4L"}]
GIVEN: Any = {"messages": MESSAGES, "seed": 7, "max_tokens": 16}
Check = Callable[[openai.OpenAI], None]


def models(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {BASE, RL}
    found = client.models.retrieve(RL)
    assert (found.id, found.object) == (RL, "model") and found.created > 0


def completion(client: openai.OpenAI) -> None:
    for model in (BASE, RL):
        done = client.chat.completions.create(model=model, **GIVEN)
        assert (done.model, done.object) == (model, "chat.completion")
        assert (done.choices[0].message.content, done.choices[0].finish_reason) == (REPLY, "stop")
        assert done.usage and done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens


def token_ids(client: openai.OpenAI) -> None:
    """Our extension, through the client's own ``extra_body`` and ``model_extra``."""
    done = client.chat.completions.create(model=RL, **GIVEN, extra_body={"return_token_ids": True})
    ours = (done.choices[0].model_extra or {})["synth_ray"]
    assert done.usage and len(ours["token_ids"]) == len(ours["logprobs"]) == done.usage.completion_tokens
    assert ours["weights_name"] == "job_b@final"


def stream(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    chunks = list(client.chat.completions.create(model=BASE, **GIVEN, stream=True, stream_options=options))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == REPLY
    assert len(chunks) > 4 and chunks[-1].usage and chunks[-2].choices[0].finish_reason == "stop"


def stream_helper(client: openai.OpenAI) -> None:
    """The client puts the chunks of a tool call together itself."""
    with client.chat.completions.stream(model=BASE, **GIVEN, tools=TOOLS) as events:
        kinds = {event.type for event in events}
        (choice,) = events.get_final_completion().choices
    assert "tool_calls.function.arguments.done" in kinds
    check_call(choice)


def tools(client: openai.OpenAI) -> None:
    (choice,) = client.chat.completions.create(model=BASE, **GIVEN, tools=TOOLS).choices
    check_call(choice)
    said: Any = choice.message.model_dump(exclude_none=True)
    result = {"role": "tool", "tool_call_id": said["tool_calls"][0]["id"], "content": "near water"}
    again = client.chat.completions.create(model=BASE, messages=[*MESSAGES, said, result], tools=TOOLS)
    check_call(again.choices[0])


def check_call(choice: Any) -> None:
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name, choice.finish_reason) == ("function", "interact_many", "tool_calls")
    assert json.loads(call.function.arguments) == json.loads(REPLY)


def logprobs(client: openai.OpenAI) -> None:
    (choice,) = client.chat.completions.create(model=BASE, **GIVEN, logprobs=True, top_logprobs=3).choices
    assert choice.logprobs and choice.logprobs.content
    entries = choice.logprobs.content
    assert "".join(entry.token for entry in entries) == REPLY
    assert [entry.logprob for entry in entries] == [-0.25 * (place + 1) for place in range(len(entries))]
    assert all(len(entry.top_logprobs) == 3 for entry in entries)


def asynchronous(client: openai.OpenAI) -> None:
    async def main() -> str:
        async with openai.AsyncOpenAI(base_url=URL, max_retries=0) as other:
            chunks = await other.chat.completions.create(model=BASE, **GIVEN, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

    assert asyncio.run(main()) == REPLY


def wrong_key(client: openai.OpenAI) -> None:
    error = raised(openai.AuthenticationError, lambda: client.with_options(api_key="wrong").models.list())
    assert error.status_code == 401


def unknown_model(client: openai.OpenAI) -> None:
    for call in (
        lambda: client.models.retrieve("crafter-tny"),
        lambda: client.chat.completions.create(model="crafter-tny", **GIVEN),
        lambda: client.chat.completions.create(model="crafter-tny", **GIVEN, stream=True),
    ):
        error = raised(openai.NotFoundError, call)
        assert error.code == "model_not_found" and "did you mean" in error.message


def wrong_field(client: openai.OpenAI) -> None:
    error = raised(openai.BadRequestError, lambda: client.chat.completions.create(model=BASE, **GIVEN, n=17))
    assert (error.status_code, error.param) == (400, "n")


def raised(kind: type[openai.APIStatusError], call: Callable[[], Any]) -> Any:
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


CHECKS: list[Check] = [
    *(models, completion, token_ids, stream, stream_helper, tools, logprobs, asynchronous),
    *(wrong_key, unknown_model, wrong_field),
]


def main() -> int:
    failed = 0
    print(f"version {openai.__version__}")
    with openai.OpenAI(base_url=URL, max_retries=0, timeout=60) as client:
        for check in CHECKS:
            try:
                check(client)
                print(f"ok    {check.__name__}")
            except Exception as error:
                failed += 1
                print(f"FAIL  {check.__name__}: {type(error).__name__}: {error}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
