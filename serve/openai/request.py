"""Chat completion requests: from a JSON body to a checked call.

Fields that nobody knows are ignored, as OpenAI's clients expect of compatible servers. Fields that reach into the
server (templates, media, embeddings, decoding back-ends) are refused, and so are settings that this server could only
pretend to follow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, JsonValue, ValidationError, field_validator, model_validator

from serve.openai.errors import BadRequest
from synth_ray.core.types import Message, Sampling

MAX_CHOICES = 16
MAX_TOP_LOGPROBS = 20
MAX_STOPS = 16
REFUSED = (
    "chat_template",
    "mm_processor_kwargs",
    "media_io_kwargs",
    "documents",
    "prompt_embeds",
    "input_embeds",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "guided_decoding_backend",
    "logits_processors",
    "kv_transfer_params",
    "vllm_xargs",
    "lora_path",
    "lora_request",
)
_TEMPLATE_SWITCHES = ("enable_thinking", "thinking_budget")
_Text = Annotated[str, Field(min_length=1, max_length=256)]


class Part(BaseModel):
    """One part of a message; this server reads text."""

    type: Literal["text"]
    text: str


class CalledFunction(BaseModel):
    """What an earlier reply has called."""

    name: str = Field(min_length=1, max_length=128)
    arguments: str | dict[str, JsonValue] = "{}"


class Called(BaseModel):
    """One tool call of an earlier reply."""

    id: str = ""
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(BaseModel):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[Called] | None = None
    tool_call_id: str | None = None


class ToolFunction(BaseModel):
    """What a tool is called and takes (JSON Schema)."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")
    description: str = ""
    parameters: dict[str, JsonValue] = {}


class Tool(BaseModel):
    """One tool that the model may call."""

    type: Literal["function"] = "function"
    function: ToolFunction


class NamedFunction(BaseModel):
    """The name in a ``tool_choice``."""

    name: str


class NamedTool(BaseModel):
    """A ``tool_choice`` that names one tool."""

    type: Literal["function"] = "function"
    function: NamedFunction


class StreamOptions(BaseModel):
    """What a stream ends with."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """The body of `POST /v1/chat/completions`."""

    model: str = Field(min_length=1, max_length=512)
    messages: list[ChatMessage] = Field(min_length=1, max_length=4096)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, lt=1 << 31)
    seed: int | None = Field(None, ge=0, lt=1 << 63)
    stop: _Text | Annotated[list[_Text], Field(max_length=MAX_STOPS)] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    tools: list[Tool] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    thinking_mode: Literal["think", "no_think"] | None = None
    chat_template_kwargs: dict[str, JsonValue] | None = None
    return_token_ids: bool | None = None
    """Ours: token ids, log-probs and the weights of every choice, under `synth_ray`."""
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    response_format: dict[str, JsonValue] | None = None

    @field_validator("frequency_penalty", "presence_penalty")
    @classmethod
    def _no_penalty(cls, value: float | None) -> float | None:
        if value:
            raise ValueError("penalties are not supported; leave it out")
        return value

    @field_validator("repetition_penalty")
    @classmethod
    def _no_repetition_penalty(cls, value: float | None) -> float | None:
        if value not in (None, 1):
            raise ValueError("penalties are not supported; leave it out")
        return value

    @field_validator("logit_bias")
    @classmethod
    def _no_bias(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        if value:
            raise ValueError("a bias is not supported; leave it out")
        return value

    @field_validator("response_format")
    @classmethod
    def _text_only(cls, value: dict[str, JsonValue] | None) -> dict[str, JsonValue] | None:
        if value and value.get("type") != "text":
            raise ValueError("only the type 'text' is supported")
        return value

    @field_validator("chat_template_kwargs")
    @classmethod
    def _known_switches(cls, value: dict[str, JsonValue] | None) -> dict[str, JsonValue] | None:
        if foreign := sorted(set(value or ()) - set(_TEMPLATE_SWITCHES)):
            raise ValueError(f"{foreign[0]!r} is refused; allowed are: {', '.join(_TEMPLATE_SWITCHES)}")
        if not isinstance((value or {}).get("enable_thinking", True), bool):
            raise ValueError("enable_thinking must be true or false")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs = true")
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) != len(names):
            raise ValueError("two tools have the same name")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ValueError("tool_choice names a tool that is not among the tools")
        return self


@dataclass(frozen=True, slots=True)
class ChatCall:
    """A checked request. ``max_tokens`` is None if the client leaves the length to the model's own limit.

    ``tools`` are shown to the model, in OpenAI's shape; ``callable`` are those of them that its reply may call.
    """

    model: str
    messages: tuple[Message, ...]
    sampling: Sampling
    max_tokens: int | None
    n: int = 1
    stop: tuple[str, ...] = ()
    stream: bool = False
    include_usage: bool = False
    logprobs: bool = False
    tools: tuple[Mapping[str, Any], ...] = ()
    callable: tuple[Mapping[str, Any], ...] = ()
    parallel: bool = True
    thinking: bool | None = None
    return_token_ids: bool = False


def chat_call(body: Any) -> ChatCall:
    """The call that a JSON body asks for. Raises BadRequest that names the field."""
    if not isinstance(body, Mapping):
        raise BadRequest("the body must be a JSON object")
    extra = body.get("extra_body")
    lifted = {**(extra if isinstance(extra, Mapping) else {}), **body}
    for name in REFUSED:
        if lifted.get(name):
            raise BadRequest(f"{name!r} is refused by this server", name, "unsupported_parameter")
    try:
        request = ChatRequest.model_validate(lifted)
    except ValidationError as error:
        raise _refusal(error) from None
    return _call(request)


def _call(request: ChatRequest) -> ChatCall:
    tools = [tool.model_dump() for tool in request.tools or ()]
    choice = request.tool_choice
    named = choice.function.name if isinstance(choice, NamedTool) else None
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    return ChatCall(
        model=request.model,
        messages=tuple(map(_message, request.messages)),
        sampling=_sampling(request),
        max_tokens=request.max_completion_tokens or request.max_tokens,
        n=request.n or 1,
        stop=tuple(stop),
        stream=bool(request.stream),
        include_usage=bool(request.stream_options and request.stream_options.include_usage),
        logprobs=bool(request.logprobs),
        tools=() if choice == "none" else tuple(tools),
        callable=() if choice == "none" else _callable(tools, named),
        parallel=request.parallel_tool_calls is not False,
        thinking=_thinking(request),
        return_token_ids=bool(request.return_token_ids),
    )


def _callable(tools: Sequence[dict[str, Any]], named: str | None) -> tuple[Mapping[str, Any], ...]:
    return tuple(tool for tool in tools if named in (None, tool["function"]["name"]))


def _sampling(request: ChatRequest) -> Sampling:
    return Sampling(
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        top_k=max(0, request.top_k or 0),
        seed=request.seed,
        top_logprobs=request.top_logprobs or 0,
    )


def _thinking(request: ChatRequest) -> bool | None:
    switch = (request.chat_template_kwargs or {}).get("enable_thinking")
    if isinstance(switch, bool):
        return switch
    return None if request.thinking_mode is None else request.thinking_mode == "think"


def _message(given: ChatMessage) -> Message:
    parts = given.content if isinstance(given.content, list) else []
    text = given.content if isinstance(given.content, str) else "".join(part.text for part in parts)
    extra: dict[str, Any] = {}
    if given.name is not None:
        extra["name"] = given.name
    if given.tool_call_id is not None:
        extra["tool_call_id"] = given.tool_call_id
    if given.tool_calls:
        extra["tool_calls"] = [_called(call) for call in given.tool_calls]
    return Message("system" if given.role == "developer" else given.role, text, extra)


def _called(call: Called) -> dict[str, Any]:
    """Templates want the arguments as an object; text that is not one stays as it is."""
    arguments: Any = call.function.arguments
    if isinstance(arguments, str):
        try:
            parsed = json.loads(arguments)
        except (ValueError, RecursionError):
            parsed = None
        arguments = parsed if isinstance(parsed, dict) else arguments
    return {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": arguments}}


def _refusal(error: ValidationError) -> BadRequest:
    found = error.errors(include_url=False, include_input=False)
    if any(_is_part_type(one["loc"]) for one in found):
        return BadRequest("a message has a part that is not text, and this server reads text only", "messages")
    param = ".".join(str(part) for part in found[0]["loc"])
    message = found[0]["msg"].removeprefix("Value error, ")
    return BadRequest(f"{param}: {message}" if param else message, param or None)


def _is_part_type(place: Sequence[int | str]) -> bool:
    """Whether an error's place is ``messages.I.content.list[Part].J.type``."""
    return len(place) == 6 and place[0] == "messages" and place[2] == "content" and place[5] == "type"
