"""The task app's wire format, outbound: what `POST /rollout` gives. Pure: a finished rollout in, JSON values out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from synth_ray.core.types import Rollout, StopReason, Turn
from synth_ray.rollout.contract import RolloutPlan, RolloutRequest
from synth_ray.rollout.tool_calls import tool_calls
from synth_ray.rollout.trace_formats import trace_payload


class _Answer(BaseModel):
    model_config = ConfigDict(extra="allow")


class Step(_Answer):
    """One decision. ``obs.text`` is what was shown before it; ``reward`` counts the achievements that it unlocked."""

    obs: dict[str, Any]
    tool_calls: list[dict[str, Any]]
    reward: float | None = None
    done: bool = False
    truncated: bool | None = None
    info: dict[str, Any] | None = None


class Trajectory(_Answer):
    """One episode; ``stop_reason`` says why it ended, ``decision_samples`` are there with step rewards only."""

    env_id: str
    policy_id: str
    steps: list[Step]
    final: dict[str, Any] | None = None
    length: int
    inference_url: str
    trace_correlation_id: str
    stop_reason: str
    decision_samples: list[dict[str, Any]] | None = None


class Metrics(_Answer):
    """``mean_return`` is the number of achievements unlocked; ``details.stepwise`` is there with step rewards only."""

    episode_returns: list[float]
    mean_return: float
    num_steps: int
    num_episodes: int
    outcome_score: float | None = None
    events_score: float | None = None
    details: dict[str, Any] = Field(default_factory=dict)


class RolloutResponse(_Answer):
    """The played episode; ``aborted`` if it did not come to a regular end."""

    run_id: str
    trajectories: list[Trajectory]
    branches: dict[str, list[str]] = Field(default_factory=dict)
    metrics: Metrics
    aborted: bool
    ops_executed: int
    trace_correlation_id: str
    trace: dict[str, Any] | None = None
    pipeline_metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class StepwiseReport:
    """Step rewards in the contract's words: ``turns[i]`` is turn i's ``info.stepwise``, ``decisions[i]`` its deltas."""

    turns: Sequence[Mapping[str, Any]]
    samples: Sequence[Mapping[str, Any]]
    decisions: Sequence[Mapping[str, Any]]
    details: Mapping[str, Any]


def rollout_response(
    rollout: Rollout, request: RolloutRequest, plan: RolloutPlan, stepwise: StepwiseReport | None = None
) -> RolloutResponse:
    """The wire form of a rollout; ``stepwise`` is None without step rewards."""
    trajectory = _trajectory(rollout, request, plan, stepwise)
    trace = trace_payload(rollout, request.record.trace_format, plan) if request.record.return_trace else None
    return RolloutResponse(
        run_id=request.run_id,
        trajectories=[trajectory] if request.record.trajectories else [],
        metrics=_metrics(rollout, stepwise),
        aborted=not rollout.ok,
        ops_executed=2 * len(rollout.turns),
        trace_correlation_id=plan.correlation_id,
        trace=trace,
        pipeline_metadata={"trace_correlation_id": plan.correlation_id, "inference_url": plan.inference_url},
    )


def _trajectory(
    rollout: Rollout, request: RolloutRequest, plan: RolloutPlan, stepwise: StepwiseReport | None
) -> Trajectory:
    last = len(rollout.turns) - 1
    cut = rollout.stop_reason is not StopReason.DONE
    steps = []
    for turn in rollout.turns:
        info: dict[str, Any] = {"achievements_added": list(turn.facts.unlocked), "problem": turn.facts.problem}
        if stepwise is not None:
            info["stepwise"] = dict(stepwise.turns[turn.index])
        info["meta"] = _meta(turn, request.record.logprobs, plan)
        if stepwise is not None:
            info["meta"]["decision_rewards"] = dict(stepwise.decisions[turn.index])
        steps.append(
            Step(
                obs={"text": turn.messages[-1].content},
                tool_calls=tool_calls(turn),
                reward=float(len(turn.facts.unlocked)),
                done=turn.facts.done,
                truncated=cut and turn.index == last,
                info=info,
            )
        )
    return Trajectory(
        env_id=request.env.env_id or f"{rollout.task}:{rollout.seed}",
        policy_id=request.policy.policy_id or request.policy.policy_name or rollout.model,
        steps=steps,
        final={"observation": {"text": rollout.final_text}, "achievements": list(rollout.achievements)},
        length=len(steps),
        inference_url=plan.inference_url,
        trace_correlation_id=plan.correlation_id,
        stop_reason=rollout.stop_reason.value,
        decision_samples=[dict(sample) for sample in stepwise.samples] if stepwise else None,
    )


def _meta(turn: Turn, logprobs: bool, plan: RolloutPlan) -> dict[str, Any]:
    """What is known of the decision itself."""
    meta: dict[str, Any] = {
        "inference_url": plan.inference_url,
        "turn_index": turn.index,
        "usage": dict(turn.reply.usage),
        "inference_ms": turn.sample_ms,
        "finish_reason": turn.reply.finish_reason,
        "raw_response": turn.reply.extra.get("raw_response", turn.reply.text),
        "timing": {
            "inference_ms": turn.sample_ms,
            "inference_s": turn.sample_ms / 1e3,
            "env_step_ms": turn.env_ms,
            "decision_ms": turn.sample_ms + turn.env_ms,
        },
    }
    if logprobs:
        reply = turn.reply
        tokens = {"logprobs": reply.logprobs, "token_ids": reply.token_ids, "prompt_token_ids": reply.prompt_ids}
        meta |= {name: list(values) for name, values in tokens.items() if values}
    return meta


def _metrics(rollout: Rollout, stepwise: StepwiseReport | None) -> Metrics:
    details: dict[str, Any] = {"achievements": list(rollout.achievements), "invalid_turns": rollout.invalid_turns}
    if rollout.error:
        details["error"] = rollout.error
    if stepwise is not None:
        details["stepwise"] = dict(stepwise.details)
    return Metrics(
        episode_returns=[rollout.outcome],
        mean_return=rollout.outcome,
        num_steps=len(rollout.turns),
        num_episodes=1,
        outcome_score=rollout.outcome,
        details=details,
    )
