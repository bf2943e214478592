"""The Arrow schema of stored rollouts (version 1) and the rows that fill it. Knows nothing about files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from synth_ray.core.types import Message, Provenance, Reply, RewardParts, Rollout, StopReason, Turn
from synth_ray.records.rollout_rows import facts_from, facts_json, finite, storable, to_json

SCHEMA_VERSION = 1

_STATUS: Mapping[StopReason, str] = {
    StopReason.DONE: "completed",
    StopReason.TURNS: "truncated",
    StopReason.DEADLINE: "timeout",
    StopReason.ERROR: "error",
    StopReason.CANCELLED: "cancelled",
}

ROLLOUTS = pa.schema(
    [
        pa.field("trajectory_id", pa.string(), nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("step", pa.int32(), nullable=False),
        pa.field("group_id", pa.string(), nullable=False),
        pa.field("index_in_group", pa.int16(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("weights_name", pa.string(), nullable=False),
        pa.field("weights_digest", pa.string(), nullable=False),
        pa.field("reward", pa.float64(), nullable=False),
        pa.field("reward_components", pa.map_(pa.string(), pa.float64()), nullable=False),
        pa.field("achievements", pa.list_(pa.string()), nullable=False),
        pa.field("n_turns", pa.int32(), nullable=False),
        pa.field("n_env_steps", pa.int32(), nullable=False),
        pa.field("invalid_turns", pa.int32(), nullable=False),
        pa.field("input_tokens", pa.int64(), nullable=False),
        pa.field("output_tokens", pa.int64(), nullable=False),
        pa.field("status", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("stop_reason", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("started_at", pa.timestamp("us", tz="UTC")),
        pa.field("duration_ms", pa.int64(), nullable=False),
        pa.field("env_config_json", pa.string(), nullable=False),
        pa.field("messages_json", pa.large_string(), nullable=False),
    ]
)

TURNS = pa.schema(
    [
        pa.field("trajectory_id", pa.string(), nullable=False),
        pa.field("turn", pa.int32(), nullable=False),
        pa.field("prompt_token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("completion_token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("per_token_logps", pa.list_(pa.float32()), nullable=False),
        pa.field("advantage", pa.float32()),
        pa.field("weights_name", pa.string(), nullable=False),
        pa.field("weights_digest", pa.string(), nullable=False),
        pa.field("reward", pa.float64(), nullable=False),
        pa.field("unlocked", pa.list_(pa.string()), nullable=False),
        pa.field("problem", pa.string()),
        pa.field("actions", pa.list_(pa.string()), nullable=False),
        pa.field("facts_json", pa.string(), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class TurnRow:
    """One model turn; ``advantage`` is None if none was computed, ``reward`` is the total of the turn's parts.

    ``facts_json`` holds all facts; ``unlocked``, ``problem`` and ``actions`` repeat those that analyses ask for.
    """

    trajectory_id: str
    turn: int
    prompt_token_ids: Sequence[int]
    completion_token_ids: Sequence[int]
    per_token_logps: Sequence[float]
    advantage: float | None
    weights_name: str
    weights_digest: str
    reward: float
    unlocked: Sequence[str]
    problem: str | None
    actions: Sequence[str]
    facts_json: str
    finish_reason: str


@dataclass(frozen=True, slots=True)
class RolloutRow:
    """One rollout. ``reward`` is the raw outcome reward; ``reward_components`` are the turns' parts, summed by name.

    ``weights_name`` and ``weights_digest`` list the distinct ones of its turns, comma-separated, in order of use.
    ``messages_json`` holds one chat per turn: the messages that were shown, then the reply.
    """

    trajectory_id: str
    run_id: str
    task: str
    step: int
    group_id: str
    index_in_group: int
    seed: int
    model: str
    weights_name: str
    weights_digest: str
    reward: float
    reward_components: Mapping[str, float]
    achievements: Sequence[str]
    n_turns: int
    n_env_steps: int
    invalid_turns: int
    input_tokens: int
    output_tokens: int
    status: str
    stop_reason: str
    error: str | None
    started_at: datetime | None
    duration_ms: int
    env_config_json: str
    messages_json: str
    turns: tuple[TurnRow, ...] = field(default=())


def rollout_row(rollout: Rollout, advantages: Sequence[float] | None = None) -> RolloutRow:
    """The row of a rollout with its turns. Raises ValueError if ``advantages`` does not hold one number per turn."""
    turns = rollout.turns
    if advantages is not None and len(advantages) != len(turns):
        raise ValueError(f"rollout {rollout.rollout_id} has {len(turns)} turns but {len(advantages)} advantages")
    return RolloutRow(
        trajectory_id=rollout.rollout_id,
        run_id=rollout.run_id,
        task=rollout.task,
        step=rollout.step,
        group_id=str(rollout.group),
        index_in_group=rollout.index,
        seed=rollout.seed,
        model=rollout.model,
        weights_name=_distinct(turn.reply.weights_name for turn in turns),
        weights_digest=_distinct(turn.reply.weights_digest for turn in turns),
        reward=finite(rollout.outcome),
        reward_components=_components(turns),
        achievements=rollout.achievements,
        n_turns=len(turns),
        n_env_steps=sum(turn.facts.env_steps for turn in turns),
        invalid_turns=rollout.invalid_turns,
        input_tokens=sum(_tokens(turn, turn.reply.prompt_ids, "prompt_tokens", "input_tokens") for turn in turns),
        output_tokens=sum(_tokens(turn, turn.reply.token_ids, "completion_tokens", "output_tokens") for turn in turns),
        status=_STATUS[rollout.stop_reason],
        stop_reason=rollout.stop_reason.value,
        error=None if rollout.error is None else storable(rollout.error),
        started_at=_instant(rollout.started_at),
        duration_ms=round(rollout.duration_ms),
        env_config_json=to_json(rollout.env_config),
        messages_json=to_json([_chat(turn) for turn in turns]),
        turns=tuple(
            _turn_row(rollout.rollout_id, turn, None if advantages is None else finite(advantages[at]))
            for at, turn in enumerate(turns)
        ),
    )


def rollout_from_row(row: RolloutRow) -> Rollout:
    """The rollout behind a row of a training run, as far as the row keeps it.

    A turn's reward is one part, "total"; times per turn and usage are not there. Raises ValueError, KeyError or
    TypeError if a value does not decode.
    """
    chats = json.loads(row.messages_json)
    return Rollout(
        rollout_id=row.trajectory_id,
        run_id=row.run_id,
        task=row.task,
        seed=row.seed,
        model=row.model,
        provenance=Provenance.ENGINE,
        turns=tuple(_turn_from(turn, chat) for turn, chat in zip(row.turns, chats, strict=True)),
        outcome=row.reward,
        achievements=tuple(row.achievements),
        stop_reason=StopReason(row.stop_reason),
        started_at=row.started_at.isoformat() if row.started_at else "",
        duration_ms=row.duration_ms,
        step=row.step,
        group=int(row.group_id),
        index=row.index_in_group,
        error=row.error,
        env_config=json.loads(row.env_config_json),
    )


def _turn_from(row: TurnRow, chat: Sequence[Mapping[str, Any]]) -> Turn:
    *shown, reply = chat
    extra = {name: value for name, value in reply.items() if name not in ("role", "content")}
    return Turn(
        index=row.turn,
        messages=tuple(_message_from(message) for message in shown),
        reply=Reply(
            text=reply["content"],
            extra=extra,
            prompt_ids=tuple(row.prompt_token_ids),
            token_ids=tuple(row.completion_token_ids),
            logprobs=tuple(row.per_token_logps),
            finish_reason=row.finish_reason,
            weights_name=row.weights_name,
            weights_digest=row.weights_digest,
        ),
        facts=facts_from(json.loads(row.facts_json)),
        reward=RewardParts({"total": row.reward}),
        sample_ms=0.0,
        env_ms=0.0,
    )


def _message_from(value: Mapping[str, Any]) -> Message:
    """The inverse of ``Message.as_dict``."""
    extra = {name: one for name, one in value.items() if name not in ("role", "content")}
    content = value["content"]
    if isinstance(content, str):
        return Message(value["role"], content, extra)
    text = "".join(part["text"] for part in content if part["type"] == "text")
    images = tuple(part["image_url"]["url"] for part in content if part["type"] == "image_url")
    return Message(value["role"], text, extra, images)


def _turn_row(rollout_id: str, turn: Turn, advantage: float | None) -> TurnRow:
    return TurnRow(
        trajectory_id=rollout_id,
        turn=turn.index,
        prompt_token_ids=turn.reply.prompt_ids,
        completion_token_ids=turn.reply.token_ids,
        per_token_logps=turn.reply.logprobs,
        advantage=advantage,
        weights_name=turn.reply.weights_name,
        weights_digest=turn.reply.weights_digest,
        reward=finite(turn.reward.total),
        unlocked=turn.facts.unlocked,
        problem=None if turn.facts.problem is None else storable(turn.facts.problem),
        actions=[storable(action) for action in turn.facts.actions],
        facts_json=to_json(facts_json(turn.facts)),
        finish_reason=turn.reply.finish_reason,
    )


def _chat(turn: Turn) -> list[dict[str, Any]]:
    reply = {**turn.reply.extra, "role": "assistant", "content": turn.reply.text}
    return [*(message.as_dict() for message in turn.messages), reply]


def _components(turns: Sequence[Turn]) -> dict[str, float]:
    totals: Counter[str] = Counter()
    for turn in turns:
        totals.update(turn.reward.parts)
    return dict(sorted(totals.items()))


def _tokens(turn: Turn, ids: Sequence[int], *names: str) -> int:
    counted = (turn.reply.usage[name] for name in names if name in turn.reply.usage)
    return len(ids) or next(counted, 0)


def _distinct(values: Iterable[str]) -> str:
    return ",".join(dict.fromkeys(value for value in values if value))


def _instant(text: str) -> datetime | None:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)
