"""Chat completion requests: from messages and settings to the body that a vendor or server accepts. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from synth_ray.core.errors import ConfigError
from synth_ray.core.types import Endpoint, EpisodeSpec, Message, Sampling
from synth_ray.rollout.task import Task

_OURS = frozenset({"messages", "model", "n", "stream", "stream_options", "tools"})
_NOT_FOR_VENDORS = frozenset(
    {
        *("thinking_mode", "thinking_budget", "stop_after_tool_calls", "reasoning", "extra_body", "function_call"),
        *("top_k", "return_token_ids"),
    }
)
_LOGPROBS = ("logprobs", "top_logprobs")
_MIN_TOKENS = 16
_TOKEN_MARGIN = 64


def check_body(body: Mapping[str, Any]) -> None:
    """ConfigError if settings of a policy, or ``extra_body`` in them, hold no JSON or a field that is decided here."""
    extra = body.get("extra_body")
    taken = sorted(_OURS & {*body, *(extra if isinstance(extra, Mapping) else ())})
    if taken:
        names = ", ".join(taken)
        raise ConfigError(f"policy_config can't set {names}: the rollout decides this", f"leave out {names}")
    try:
        json.dumps(dict(body), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"policy_config can't be sent as JSON: {error}") from None


def chat_body(
    endpoint: Endpoint,
    vendor: str,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]],
    sampling: Sampling,
    seed: int,
) -> dict[str, Any]:
    """The body of one turn. ``endpoint.body`` wins over ``sampling``; its ``use_tools = false`` leaves tools out."""
    given = dict(endpoint.body)
    body: dict[str, Any] = {
        "model": endpoint.model,
        "messages": [message.as_dict() for message in messages],
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": seed,
    }
    if sampling.top_k:
        body["top_k"] = sampling.top_k
    if "max_completion_tokens" not in given:
        body["max_tokens"] = sampling.max_tokens
    if given.pop("use_tools", True) and tools:
        body |= {
            "tools": [dict(tool) for tool in tools],
            "tool_choice": first_tool(tools),
            "parallel_tool_calls": False,
        }
    return fitted({**body, **given}, vendor)


def offered_tools(spec: EpisodeSpec, task: Task) -> dict[str, Any]:
    """``{"tools": [...]}`` for the metadata of a rollout, if its policy is a remote model that is shown them."""
    shown = spec.endpoint is not None and spec.endpoint.body.get("use_tools", True)
    tools = task.tools(spec.env_config) if shown else []
    return {"tools": tools} if tools else {}


def first_tool(tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The ``tool_choice`` that asks for the first tool."""
    return {"type": "function", "function": {"name": tools[0]["function"]["name"]}}


def fitted(body: Mapping[str, Any], vendor: str) -> dict[str, Any]:
    """``body`` as its receiver takes it.

    Vendors (``vendor`` not empty) refuse unknown fields, so those of other servers are left out. For the others
    ``extra_body`` is unpacked, and thinking is switched in the chat template. gpt-5 has its own field for the longest
    reply and no sampling fields. Neither gpt-5 nor Groq gives log-probabilities, and both refuse to be asked.
    """
    known = {key: value for key, value in body.items() if key not in _NOT_FOR_VENDORS} if vendor else _lifted(body)
    gpt_5 = str(known.get("model", "")).rpartition("/")[2].startswith("gpt-5")
    if gpt_5 or vendor == "groq":
        known = {key: value for key, value in known.items() if key not in _LOGPROBS}
    if gpt_5:
        longest = known.pop("max_tokens", None)
        if longest is not None:
            known.setdefault("max_completion_tokens", longest)
        for name in ("temperature", "top_p"):
            known.pop(name, None)
    return known


def with_smaller_budget(body: Mapping[str, Any], refusal: Any) -> dict[str, Any] | None:
    """``body`` with the reply length that a ``token_budget_exceeded`` refusal leaves room for; None for any other."""
    detail = refusal.get("detail") if isinstance(refusal, Mapping) else None
    if not isinstance(detail, Mapping) or detail.get("error") != "token_budget_exceeded":
        return None
    numbers = detail.get("details")
    if not isinstance(numbers, Mapping):
        return None
    used, limit = numbers.get("messages_tokens"), numbers.get("model_limit")
    if not isinstance(used, int) or not isinstance(limit, int):
        return None
    name = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
    return {**body, name: max(_MIN_TOKENS, limit - used - _TOKEN_MARGIN)}


def _lifted(body: Mapping[str, Any]) -> dict[str, Any]:
    extra = body.get("extra_body")
    lifted = {**(extra if isinstance(extra, Mapping) else {}), **body}
    lifted.pop("extra_body", None)
    mode, budget = lifted.pop("thinking_mode", None), lifted.pop("thinking_budget", None)
    if mode is None and budget is None:
        return lifted
    thinking = mode != "no_think" and budget != 0
    switches = {"enable_thinking": thinking, **({"thinking_budget": budget} if thinking and budget else {})}
    given = lifted.get("chat_template_kwargs")
    return {**lifted, "chat_template_kwargs": {**switches, **(given if isinstance(given, Mapping) else {})}}
