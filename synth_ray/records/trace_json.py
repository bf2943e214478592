"""Rollouts as JSON for other programs: one object per line, or OpenTelemetry spans. Pure, and deterministic.

OpenTelemetry: the GenAI semantic conventions, version 1.41.0, as OTLP JSON. A rollout is one trace, ``invoke_agent
TASK`` over a ``chat MODEL`` and an ``execute_tool NAME`` for each turn; reward parts are ``gen_ai.evaluation.result``
events.
Ids derive from the rollout's id. A turn's times follow from the start of the rollout and the measured durations. What
was said is left out unless it is asked for, as the conventions have it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from synth_ray import __version__
from synth_ray.core.hashing import sha256_text
from synth_ray.core.types import Provenance, Rollout, Turn

SCHEMA_URL = "https://opentelemetry.io/schemas/1.41.0"

_INTERNAL, _CLIENT = 1, 3
_OK, _ERROR = 1, 2
_PROVIDERS: Mapping[Provenance, str] = {
    Provenance.ENGINE: "vllm",
    Provenance.REMOTE: "remote",
    Provenance.EXPERT: "synth_ray.teacher",
}
_TOOL = "act"


def json_line(rollout: Rollout) -> str:
    """Everything that is known of the rollout as one JSON object; times as ISO 8601 in UTC."""
    return _ascii(rollout_json(rollout))


def rollout_json(rollout: Rollout) -> dict[str, Any]:
    """The fields of the rollout as JSON values; a log-probability that JSON can't write (infinite) is None."""
    values = {**asdict(rollout), "started_at": iso_utc(rollout.started_at)}
    for turn in values["turns"]:
        turn["reply"]["logprobs"] = [one if math.isfinite(one) else None for one in turn["reply"]["logprobs"]]
    return values


def iso_utc(text: str) -> str:
    """An ISO 8601 instant in UTC, to the microsecond; what is none stays as it is."""
    instant = _instant(text)
    return text if instant is None else instant.isoformat(timespec="microseconds").replace("+00:00", "Z")


def otlp_line(rollout: Rollout, content: bool = False) -> str:
    """The rollout as one ExportTraceServiceRequest; ``content`` adds messages and tool arguments."""
    resource = _attributes({"service.name": "synth-ray", "service.version": __version__})
    scope = {"name": "synth_ray", "version": __version__}
    spans = {"scope": scope, "spans": _spans(rollout, content), "schemaUrl": SCHEMA_URL}
    request = {"resourceSpans": [{"resource": {"attributes": resource}, "scopeSpans": [spans]}]}
    return _ascii(request)


def _spans(rollout: Rollout, content: bool) -> list[dict[str, Any]]:
    instant = _instant(rollout.started_at) or datetime.fromtimestamp(0, UTC)
    start = now = int(instant.timestamp() * 1e6) * 1000
    children: list[dict[str, Any]] = []
    for turn in rollout.turns:
        asked, answered = now, now + round(turn.sample_ms * 1e6)
        now = answered + round(turn.env_ms * 1e6)
        children.append(_chat(rollout, turn, asked, answered, content))
        children.append(_tool(rollout, turn, answered, now, content))
    end = max(now, start + round(rollout.duration_ms * 1e6))
    return [_agent(rollout, start, end), *children]


def _agent(rollout: Rollout, start: int, end: int) -> dict[str, Any]:
    about = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.provider.name": _PROVIDERS[rollout.provenance],
        "gen_ai.agent.name": rollout.task,
        "gen_ai.conversation.id": rollout.rollout_id,
        "gen_ai.request.model": rollout.model,
        "synth_ray.run.id": rollout.run_id,
        "synth_ray.seed": rollout.seed,
        "synth_ray.step": rollout.step,
        "synth_ray.stop_reason": rollout.stop_reason.value,
        "synth_ray.achievements": list(rollout.achievements),
    }
    span = _span(rollout, "agent", f"invoke_agent {rollout.task}", _INTERNAL, (start, end), about)
    status = {"code": _OK} if rollout.ok else {"code": _ERROR, "message": rollout.error or rollout.stop_reason.value}
    return {**span, "events": [_evaluation("outcome", rollout.outcome, end)], "status": status}


def _chat(rollout: Rollout, turn: Turn, start: int, end: int, content: bool) -> dict[str, Any]:
    reply = turn.reply
    usage = reply.usage
    about: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": _PROVIDERS[rollout.provenance],
        "gen_ai.conversation.id": rollout.rollout_id,
        "gen_ai.request.model": rollout.model,
        "gen_ai.response.model": reply.weights_name or rollout.model,
        "gen_ai.response.finish_reasons": [reply.finish_reason],
        "gen_ai.usage.input_tokens": usage.get("input_tokens", usage.get("prompt_tokens", len(reply.prompt_ids))),
        "gen_ai.usage.output_tokens": usage.get("output_tokens", usage.get("completion_tokens", len(reply.token_ids))),
        "synth_ray.turn": turn.index,
        "synth_ray.weights.digest": reply.weights_digest,
    }
    if content:
        about["gen_ai.input.messages"] = _json([_message(m.role, m.content, {}) for m in turn.messages])
        said = {**_message("assistant", reply.text, reply.extra), "finish_reason": reply.finish_reason}
        about["gen_ai.output.messages"] = _json([said])
    span = _span(rollout, f"{turn.index}/chat", f"chat {rollout.model}", _CLIENT, (start, end), about)
    return {**span, "events": [_evaluation(name, value, end) for name, value in sorted(turn.reward.parts.items())]}


def _tool(rollout: Rollout, turn: Turn, start: int, end: int, content: bool) -> dict[str, Any]:
    name, call_id = _called(turn)
    about: dict[str, Any] = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": name,
        "gen_ai.tool.type": "function",
        "gen_ai.tool.call.id": call_id or f"{rollout.rollout_id}/{turn.index}",
        "synth_ray.turn": turn.index,
        "synth_ray.unlocked": list(turn.facts.unlocked),
    }
    if content:
        about["gen_ai.tool.call.arguments"] = _json({"actions": list(turn.facts.actions)})
        about["gen_ai.tool.call.result"] = _json(
            {"unlocked": list(turn.facts.unlocked), "done": turn.facts.done, "problem": turn.facts.problem}
        )
    span = _span(rollout, f"{turn.index}/tool", f"execute_tool {name}", _INTERNAL, (start, end), about)
    problem = turn.facts.problem
    return span if problem is None else {**span, "status": {"code": _ERROR, "message": problem}}


def _called(turn: Turn) -> tuple[str, str]:
    """Name and id of the turn's first tool call; a name of ours if the actions were in the text."""
    calls = turn.reply.extra.get("tool_calls")
    first = calls[0] if isinstance(calls, list) and calls else {}
    function = first.get("function") if isinstance(first, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    call_id = first.get("id") if isinstance(first, Mapping) else None
    return (name if isinstance(name, str) else _TOOL), (call_id if isinstance(call_id, str) else "")


def _span(
    rollout: Rollout, part: str, name: str, kind: int, times: tuple[int, int], about: Mapping[str, Any]
) -> dict[str, Any]:
    trace = sha256_text(f"trace/{rollout.rollout_id}")[:32]
    parent = {} if part == "agent" else {"parentSpanId": _span_id(rollout, "agent")}
    return {
        "traceId": trace,
        "spanId": _span_id(rollout, part),
        **parent,
        "name": name,
        "kind": kind,
        "startTimeUnixNano": str(times[0]),
        "endTimeUnixNano": str(times[1]),
        "attributes": _attributes(about),
    }


def _span_id(rollout: Rollout, part: str) -> str:
    return sha256_text(f"span/{rollout.rollout_id}/{part}")[:16]


def _evaluation(name: str, score: float, at: int) -> dict[str, Any]:
    about = {"gen_ai.evaluation.name": name, "gen_ai.evaluation.score.value": float(score)}
    return {"timeUnixNano": str(at), "name": "gen_ai.evaluation.result", "attributes": _attributes(about)}


def _message(role: str, text: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "text", "content": text}] if text else []
    calls = extra.get("tool_calls")
    for call in calls if isinstance(calls, list) else []:
        if isinstance(call, Mapping):
            parts.append({"type": "tool_call", "id": call.get("id"), **call.get("function", {})})
    return {"role": role, "parts": parts}


def _attributes(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in values.items()]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return {"arrayValue": {"values": [_value(one) for one in value]}}
    return {"stringValue": value}


def _ascii(value: Any) -> str:
    """Canonical JSON in ASCII: some readers take U+2028 or U+0085 for the end of a line, and terminals obey C1."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _instant(text: str) -> datetime | None:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).astimezone(UTC)
