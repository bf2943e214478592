"""Rollouts as database rows and back, without loss. Knows nothing about SQLite files or queries.

Messages, facts and rewards become canonical JSON; token ids little-endian int32 and log-probabilities little-endian
float64, so that a Rollout read back equals the one that was written.
"""

from __future__ import annotations

import json
import re
import sys
from array import array
from collections.abc import Iterable, Mapping
from sqlite3 import Row
from typing import Any

from synth_ray.core.hashing import canonical_json
from synth_ray.core.types import Message, Provenance, Reply, RewardParts, Rollout, StepFacts, StopReason, Turn

_SURROGATE = re.compile("[\ud800-\udfff]")
SESSION_COLUMNS = (
    "rollout_id", "run_id", "task", "seed", "model", "provenance", "outcome", "achievements", "stop_reason",
    "started_at", "duration_ms", "n_turns", "invalid_turns", "step", "group_id", "index_in_group", "error",
    "env_config", "metadata",
)  # fmt: skip
TURN_COLUMNS = (
    "rollout_id", "turn", "messages", "reply_text", "reply_extra", "facts", "reward", "prompt_ids", "token_ids",
    "logprobs", "weights_name", "weights_digest", "finish_reason", "usage", "sample_ms", "env_ms",
)  # fmt: skip


def session_values(rollout: Rollout, metadata: Mapping[str, Any]) -> tuple[Any, ...]:
    """The values of ``SESSION_COLUMNS``. Raises ValueError for numbers that are not finite."""
    return (
        rollout.rollout_id, rollout.run_id, rollout.task, rollout.seed, rollout.model, rollout.provenance.value,
        finite(rollout.outcome), to_json(rollout.achievements), rollout.stop_reason.value,
        rollout.started_at, finite(rollout.duration_ms), len(rollout.turns), rollout.invalid_turns, rollout.step,
        rollout.group, rollout.index, None if rollout.error is None else storable(rollout.error),
        to_json(rollout.env_config), to_json(metadata),
    )  # fmt: skip


def turn_values(rollout_id: str, turn: Turn) -> tuple[Any, ...]:
    """The values of ``TURN_COLUMNS``. Raises ValueError for numbers that are not finite (log-probabilities may be)."""
    reply = turn.reply
    return (
        rollout_id, turn.index, to_json([_message_json(message) for message in turn.messages]),
        storable(reply.text), to_json(reply.extra), to_json(facts_json(turn.facts)), to_json(turn.reward.parts),
        _pack("i", reply.prompt_ids), _pack("i", reply.token_ids), _pack("d", reply.logprobs),
        storable(reply.weights_name), reply.weights_digest, storable(reply.finish_reason), to_json(reply.usage),
        finite(turn.sample_ms), finite(turn.env_ms),
    )  # fmt: skip


def rollout_from(session: Row, turns: Iterable[Row]) -> Rollout:
    """The rollout that was stored. Raises ValueError, KeyError or TypeError if a value does not decode."""
    return Rollout(
        rollout_id=session["rollout_id"],
        run_id=session["run_id"],
        task=session["task"],
        seed=session["seed"],
        model=session["model"],
        provenance=Provenance(session["provenance"]),
        turns=tuple(_turn_from(row) for row in turns),
        outcome=session["outcome"],
        achievements=tuple(json.loads(session["achievements"])),
        stop_reason=StopReason(session["stop_reason"]),
        started_at=session["started_at"],
        duration_ms=session["duration_ms"],
        step=session["step"],
        group=session["group_id"],
        index=session["index_in_group"],
        error=session["error"],
        env_config=json.loads(session["env_config"]),
    )


def facts_json(facts: StepFacts) -> dict[str, Any]:
    """All fields of ``facts`` as plain JSON values."""
    return {
        "actions": facts.actions,
        "unlocked": facts.unlocked,
        "inventory_delta": dict(facts.inventory_delta),
        "counter_delta": dict(facts.counter_delta),
        "env_steps": facts.env_steps,
        "env_reward": facts.env_reward,
        "done": facts.done,
        "problem": facts.problem,
    }


def facts_from(value: Mapping[str, Any]) -> StepFacts:
    """The facts that ``facts_json`` made ``value`` of. Raises KeyError or TypeError for anything else."""
    return StepFacts(**{**value, "actions": tuple(value["actions"]), "unlocked": tuple(value["unlocked"])})


def to_json(value: Any) -> str:
    """Canonical JSON that any UTF-8 store accepts. Raises ValueError for NaN."""
    return storable(canonical_json(dict(value) if isinstance(value, Mapping) else value))


def storable(text: str) -> str:
    """``text`` with lone surrogates, which are not valid UTF-8, replaced: a remote model may send them."""
    if not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def finite(value: float) -> float:
    """``value`` as a float. Raises ValueError for NaN and infinities."""
    number = float(value)
    if number - number != 0.0:
        raise ValueError(f"{number} is not a finite number")
    return number


def _turn_from(row: Row) -> Turn:
    facts = json.loads(row["facts"])
    reply = Reply(
        text=row["reply_text"],
        extra=json.loads(row["reply_extra"]),
        prompt_ids=tuple(_unpack("i", row["prompt_ids"])),
        token_ids=tuple(_unpack("i", row["token_ids"])),
        logprobs=tuple(_unpack("d", row["logprobs"])),
        finish_reason=row["finish_reason"],
        weights_name=row["weights_name"],
        weights_digest=row["weights_digest"],
        usage=json.loads(row["usage"]),
    )
    return Turn(
        index=row["turn"],
        messages=tuple(_message_from(message) for message in json.loads(row["messages"])),
        reply=reply,
        facts=facts_from(facts),
        reward=RewardParts(json.loads(row["reward"])),
        sample_ms=row["sample_ms"],
        env_ms=row["env_ms"],
    )


def _message_json(message: Message) -> dict[str, Any]:
    images = {"images": list(message.images)} if message.images else {}
    return {"role": message.role, "content": message.content, "extra": dict(message.extra), **images}


def _message_from(value: Mapping[str, Any]) -> Message:
    return Message(value["role"], value["content"], value["extra"], tuple(value.get("images", ())))


def _pack(code: str, values: Iterable[float]) -> bytes:
    packed = array(code, values)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def _unpack(code: str, data: bytes) -> array[Any]:
    packed = array(code)
    packed.frombytes(data)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed
