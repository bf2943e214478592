"""Vendors' chat completions behind the task app's own key: clients need no vendor key, and never see ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from serve.http_errors import ErrorBody, error_answer, responses
from serve.http_json import AsciiJson
from serve.http_keys import keyed
from synth_ray.core.errors import (
    ConfigError,
    EndpointRefused,
    EndpointUnavailable,
    PolicyError,
    PrerequisiteError,
    SynthRayError,
)
from synth_ray.core.hashing import canonical_json
from synth_ray.core.origins import InferenceOrigins
from synth_ray.rollout.remote.client import ChatClient, parse_json
from synth_ray.rollout.remote.request import first_tool, fitted

ToolCall = Callable[[str], tuple[str, dict[str, Any]] | None]

TIMEOUT_S = 600.0
_DECLARED: dict[str, Any] = {
    "responses": {
        **responses(502, 503, body=True),
        "4XX": {"model": ErrorBody, "description": "The vendor's refusal."},
    },
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "description": "A chat completion in OpenAI's shape.",
            "content": {"application/json": {"schema": {"type": "object"}}},
        }
    },
}
_GPT5_MIN_TOKENS = 16_000


def proxy_router(client: ChatClient, origins: InferenceOrigins, tool_call: ToolCall) -> APIRouter:
    """`POST /proxy/v1/chat/completions` (OpenAI) and `POST /proxy/groq/v1/chat/completions`; mount it behind the guard.

    ``tool_call`` reads the action out of a reply in text (``Task.tool_call``). Whatever goes wrong is answered as
    ``{"detail": {"error": {"code", "message", "hint"}}}``, a vendor's refusal with its own status and body.
    """
    router = APIRouter(prefix="/proxy", dependencies=[Depends(keyed)])

    @router.post("/v1/chat/completions", **_DECLARED)
    async def openai(request: Request) -> Response:
        """A chat completion by OpenAI."""
        return await _proxied(client, origins, tool_call, "openai", request)

    @router.post("/groq/v1/chat/completions", **_DECLARED)
    async def groq(request: Request) -> Response:
        """A chat completion by Groq."""
        return await _proxied(client, origins, tool_call, "groq", request)

    return router


async def _proxied(
    client: ChatClient, origins: InferenceOrigins, tool_call: ToolCall, vendor: str, request: Request
) -> Response:
    try:
        body = vendor_body(parse_json((await request.body()).decode("utf-8", "replace")), vendor)
        target = origins.vendor_target(vendor)
        completion = await client.complete(target, body, TIMEOUT_S, TIMEOUT_S)
    except ConfigError as error:
        return _failed(422, "invalid_request", error)
    except PrerequisiteError as error:
        return _failed(503, f"missing_{vendor}_api_key", error)
    except (EndpointRefused, EndpointUnavailable) as error:
        return _vendor_failed(vendor, error)
    if completion.value is None:
        return error_answer(502, {"code": f"{vendor}_error", "message": completion.problem, "hint": "try again"})
    return AsciiJson(with_tool_call(completion.value, tool_call))


def vendor_body(body: Any, vendor: str) -> dict[str, Any]:
    """What goes to the vendor. ConfigError for a body that is no chat completion request, or a streamed one."""
    if not isinstance(body, Mapping) or not isinstance(body.get("messages"), list):
        raise ConfigError("the body must be a JSON object with a list of messages")
    if not isinstance(body.get("model"), str):
        raise ConfigError("the body must name a model")
    if body.get("stream"):
        raise ConfigError("streamed answers are not proxied", "leave out `stream`")
    known = fitted(body, vendor)
    if known["model"].rpartition("/")[2].startswith("gpt-5"):
        longest = known.get("max_completion_tokens")
        known["max_completion_tokens"] = max(longest if isinstance(longest, int) else 0, _GPT5_MIN_TOKENS)
        if _is_tool_list(known.get("tools")):
            known |= {"tool_choice": first_tool(known["tools"]), "parallel_tool_calls": False}
    return known


def with_tool_call(completion: Mapping[str, Any], tool_call: ToolCall) -> dict[str, Any]:
    """``completion``; if its first message has text instead of a tool call, with the call that the text stands for."""
    choices = completion.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, Mapping) else None
    text = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(choice, Mapping) or not isinstance(message, Mapping) or message.get("tool_calls"):
        return dict(completion)
    found = tool_call(text) if isinstance(text, str) else None
    if found is None:
        return dict(completion)
    name, arguments = found
    call = {
        "id": "call_from_text",
        "type": "function",
        "function": {"name": name, "arguments": canonical_json(arguments)},
    }
    answered = {**choice, "message": {**message, "tool_calls": [call]}, "finish_reason": "tool_calls"}
    return {**completion, "choices": [answered, *completion["choices"][1:]]}


def _is_tool_list(tools: Any) -> bool:
    function = tools[0].get("function") if isinstance(tools, list) and tools and isinstance(tools[0], dict) else None
    return isinstance(function, dict) and isinstance(function.get("name"), str)


def _vendor_failed(vendor: str, error: PolicyError) -> AsciiJson:
    status, body = error.details.get("status"), error.details.get("body")
    code = status if isinstance(status, int) and status >= 400 else 502
    return _failed(code, f"{vendor}_error", error, {"status": status, "body": body})


def _failed(status: int, code: str, error: SynthRayError, more: Mapping[str, Any] | None = None) -> AsciiJson:
    return error_answer(status, {"code": code, "message": error.message, "hint": error.hint, **(more or {})})
