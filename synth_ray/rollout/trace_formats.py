"""Traces on the wire, made from a rollout: ``compact`` (numbers per call) and ``full`` (the whole session).

Times are ISO 8601 with an offset; those of turns are the rollout's start plus the measured durations before them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

from synth_ray.core.types import Message, Rollout, Turn
from synth_ray.rollout.contract import RolloutPlan
from synth_ray.rollout.tool_calls import tool_calls

AGENT, ENVIRONMENT = "agent", "environment"


def trace_payload(rollout: Rollout, trace_format: str, plan: RolloutPlan) -> dict[str, Any]:
    """The trace in one of the contract's formats."""
    return FORMATS[trace_format](rollout, plan)


def compact_trace(rollout: Rollout, plan: RolloutPlan) -> dict[str, Any]:
    """Counts, one entry per LLM call, and what each decision unlocked; ``turn`` counts from 0."""
    return {
        "session_id": rollout.run_id,
        "created_at": _start(rollout).isoformat(),
        "metadata": _metadata(rollout, plan),
        "events_count": 2 * len(rollout.turns),
        "messages_count": sum(len(turn.messages) + 1 for turn in rollout.turns),
        "lm_calls": [_lm_call(rollout, turn) for turn in rollout.turns],
        "decision_rewards": [_decision_rewards(turn) for turn in rollout.turns],
    }


def full_trace(rollout: Rollout, plan: RolloutPlan) -> dict[str, Any]:
    """The whole session: a time step per decision with its events and messages, and both again in order."""
    steps = [_time_step(rollout, turn, *when) for turn, when in zip(rollout.turns, _moments(rollout), strict=True)]
    return {
        "session_id": rollout.run_id,
        "created_at": _start(rollout).isoformat(),
        "session_time_steps": steps,
        "event_history": [event for step in steps for event in step["events"]],
        "markov_blanket_message_history": [one for step in steps for one in step["markov_blanket_messages"]],
        "metadata": _metadata(rollout, plan),
        "session_metadata": None,
    }


FORMATS: dict[str, Callable[[Rollout, RolloutPlan], dict[str, Any]]] = {
    "compact": compact_trace,
    "full": full_trace,
    "structured": full_trace,
}


def _metadata(rollout: Rollout, plan: RolloutPlan) -> dict[str, Any]:
    return {
        "run_id": rollout.run_id,
        "trace_correlation_id": plan.correlation_id,
        "env_name": rollout.task,
        "env_seed": rollout.seed,
        "seed": rollout.seed,
        "policy_name": rollout.model,
        "model": rollout.model,
        "provenance": rollout.provenance.value,
        "final_achievements": list(rollout.achievements),
        "total_reward": rollout.outcome,
        "stop_reason": rollout.stop_reason.value,
    }


def _start(rollout: Rollout) -> datetime:
    return datetime.fromisoformat(rollout.started_at)


def _moments(rollout: Rollout) -> Iterator[tuple[datetime, datetime, datetime]]:
    """Of each turn, when it began, was answered and ended."""
    begin = _start(rollout)
    for turn in rollout.turns:
        answered = begin + timedelta(milliseconds=turn.sample_ms)
        ended = answered + timedelta(milliseconds=turn.env_ms)
        yield begin, answered, ended
        begin = ended


def _tokens(turn: Turn) -> dict[str, int | None]:
    """Token counts by our names, from ours or OpenAI's."""
    usage = turn.reply.usage
    given = usage.get("input_tokens", usage.get("prompt_tokens"))
    made = usage.get("output_tokens", usage.get("completion_tokens"))
    total = usage.get("total_tokens", None if given is None or made is None else given + made)
    return {"input_tokens": given, "output_tokens": made, "total_tokens": total}


def _lm_call(rollout: Rollout, turn: Turn) -> dict[str, Any]:
    return {
        "turn": turn.index,
        "model": rollout.model,
        "provider": rollout.provenance.value,
        **_tokens(turn),
        "latency_ms": turn.sample_ms,
        "tool_calls": len(_output_calls(turn)),
    }


def _decision_rewards(turn: Turn) -> dict[str, Any]:
    names = list(turn.facts.unlocked)
    return {
        "turn": turn.index,
        "ach_delta": len(names),
        "unique_delta": len(names),
        "achievements": names,
        "unique_achievements": names,
    }


def _time_step(rollout: Rollout, turn: Turn, begin: datetime, answered: datetime, ended: datetime) -> dict[str, Any]:
    step_id = f"decision_{turn.index}"
    tags = {"turn": turn.index, "step_id": step_id}
    messages = [_message(one.role, {"json_payload": _shown(one)}, begin, turn, tags) for one in turn.messages]
    messages.append(_message("assistant", _answer(turn), answered, turn, tags))
    return {
        "step_id": step_id,
        "step_index": turn.index,
        "timestamp": begin.isoformat(),
        "completed_at": ended.isoformat(),
        "turn_number": turn.index,
        "events": [_lm_event(rollout, turn, begin, answered, tags), _env_event(turn, ended, tags)],
        "markov_blanket_messages": messages,
        "step_metadata": {"sample_ms": turn.sample_ms, "env_ms": turn.env_ms},
    }


def _time(when: datetime, turn: Turn) -> dict[str, Any]:
    return {"event_time": when.timestamp(), "message_time": turn.index}


def _message(kind: str, content: dict[str, Any], when: datetime, turn: Turn, tags: dict[str, Any]) -> dict[str, Any]:
    return {"content": content, "message_type": kind, "time_record": _time(when, turn), "metadata": dict(tags)}


def _shown(message: Message) -> str:
    """A message of the prompt as JSON text: role, its text, and the content as it was sent."""
    return json.dumps({"role": message.role, "text": message.content, "content": message.as_dict()["content"]})


def _answer(turn: Turn) -> dict[str, Any]:
    """The calls as text; the whole reply, its thoughts included, as JSON."""
    calls = [{"tool_name": call["name"], "arguments": call["arguments"]} for call in _output_calls(turn)]
    whole = {"role": "assistant", "content": turn.reply.text, "tool_calls": calls}
    if reasoning := turn.reply.extra.get("reasoning"):
        whole["reasoning"] = reasoning
    return {"text": json.dumps(calls), "json_payload": json.dumps(whole)}


def _output_calls(turn: Turn) -> list[dict[str, Any]]:
    return [
        {"name": call["tool_name"], "arguments": call["arguments"], "id": call.get("id")} for call in tool_calls(turn)
    ]


def _lm_event(
    rollout: Rollout, turn: Turn, begin: datetime, answered: datetime, tags: dict[str, Any]
) -> dict[str, Any]:
    tokens = _tokens(turn)
    return {
        "system_instance_id": AGENT,
        "time_record": _time(answered, turn),
        "metadata": dict(tags),
        "event_metadata": None,
        "model_name": rollout.model,
        "provider": rollout.provenance.value,
        **tokens,
        "cost_usd": None,
        "latency_ms": round(turn.sample_ms),
        "span_id": None,
        "trace_id": None,
        "call_records": [_call_record(rollout, turn, begin, answered, tokens)],
    }


def _call_record(
    rollout: Rollout, turn: Turn, begin: datetime, answered: datetime, tokens: dict[str, int | None]
) -> dict[str, Any]:
    return {
        "call_id": f"{rollout.rollout_id}-{turn.index}",
        "api_type": "chat_completions",
        "provider": rollout.provenance.value,
        "model_name": rollout.model,
        "started_at": begin.isoformat(),
        "completed_at": answered.isoformat(),
        "latency_ms": round(turn.sample_ms),
        "input_messages": [
            {"role": message.role, "parts": [{"type": "text", "text": message.content}]} for message in turn.messages
        ],
        "output_text": turn.reply.text,
        "output_tool_calls": [
            {
                "name": call["name"],
                "arguments_json": json.dumps(call["arguments"]),
                "call_id": call["id"],
                "index": index,
            }
            for index, call in enumerate(_output_calls(turn))
        ],
        "usage": tokens,
        "finish_reason": turn.reply.finish_reason,
    }


def _env_event(turn: Turn, ended: datetime, tags: dict[str, Any]) -> dict[str, Any]:
    return {
        "system_instance_id": ENVIRONMENT,
        "time_record": _time(ended, turn),
        "metadata": {**tags, "achievements_added": list(turn.facts.unlocked), "problem": turn.facts.problem},
        "event_metadata": None,
        "reward": float(len(turn.facts.unlocked)),
        "terminated": turn.facts.done,
        "truncated": False,
        "system_state_before": None,
        "system_state_after": {
            "inventory_delta": dict(turn.facts.inventory_delta),
            "counter_delta": dict(turn.facts.counter_delta),
            "env_steps": turn.facts.env_steps,
        },
    }
