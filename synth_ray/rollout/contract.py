"""The task app's wire format: what `POST /rollout` takes and gives."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from synth_ray.core.errors import ConfigError
from synth_ray.core.types import EpisodeSpec, RewardSpec, Rollout, Turn

DEFAULT_TURNS = 10
MAX_TURNS = 1000


class _Open(BaseModel):
    model_config = ConfigDict(extra="ignore")


class EnvRequest(_Open):
    """Which world."""

    env_name: str | None = None
    seed: int = Field(0, ge=0, le=2**31 - 1)
    config: dict[str, Any] = {}


class PolicyRequest(_Open):
    """Who plays. ``config.provider`` names a teacher of the task; its other entries are the teacher's settings."""

    policy_name: str | None = None
    config: dict[str, Any] = {}


class RolloutRequest(_Open):
    """One episode. ``ops`` may give its length: one turn per pair of operations."""

    run_id: str = Field(min_length=1, max_length=200)
    env: EnvRequest = EnvRequest()
    policy: PolicyRequest
    ops: list[str] = Field(default=[], max_length=2000)
    mode: Literal["rl", "eval"] = "eval"


class RolloutResponse(_Open):
    """The played episode."""

    run_id: str
    trajectories: list[dict[str, Any]]
    metrics: dict[str, Any]
    aborted: bool
    ops_executed: int


def episode_spec(request: RolloutRequest, task: str) -> EpisodeSpec:
    """The episode that the request asks for; ConfigError if it names no provider that this server has."""
    settings = dict(request.policy.config)
    provider = settings.pop("provider", None)
    if not isinstance(provider, str) or provider == "engine":
        raise ConfigError(
            "policy.config.provider must name a teacher of the task, such as 'expert'",
            "rollouts by a model go through `synth-ray eval`",
        )
    max_turns = settings.pop("max_llm_calls", None) or (len(request.ops) + 1) // 2 or DEFAULT_TURNS
    if not isinstance(max_turns, int) or not 1 <= max_turns <= MAX_TURNS:
        raise ConfigError(f"policy.config.max_llm_calls must be a whole number from 1 to {MAX_TURNS}")
    return EpisodeSpec(
        rollout_id=request.run_id,
        run_id=request.run_id,
        task=request.env.env_name or task,
        seed=request.env.seed,
        model=provider,
        provider=provider,
        teacher=settings,
        env_config=request.env.config,
        rewards=RewardSpec("outcome"),
        max_turns=max_turns,
    )


def response(rollout: Rollout, request: RolloutRequest) -> RolloutResponse:
    """The wire form of a rollout."""
    return RolloutResponse(
        run_id=request.run_id,
        trajectories=[
            {
                "env_id": rollout.task,
                "policy_id": rollout.model,
                "steps": [_step(turn) for turn in rollout.turns],
                "length": len(rollout.turns),
                "stop_reason": rollout.stop_reason.value,
            }
        ],
        metrics={
            "episode_returns": [rollout.outcome],
            "mean_return": rollout.outcome,
            "num_steps": len(rollout.turns),
            "num_episodes": 1,
            "outcome_score": rollout.outcome,
            "details": {"achievements": list(rollout.achievements)},
        },
        aborted=not rollout.ok,
        ops_executed=2 * len(rollout.turns),
    )


def _step(turn: Turn) -> dict[str, Any]:
    return {
        "obs": {"text": turn.messages[-1].content},
        "tool_calls": [{"tool": "interact_many", "args": {"actions": list(turn.facts.actions)}}],
        "reward": turn.reward.total,
        "done": turn.facts.done,
        "info": {"achievements_added": list(turn.facts.unlocked), "problem": turn.facts.problem},
    }
