"""The task app's wire format, inbound: what `POST /rollout` takes, and which episode it asks for.

Known fields are checked strictly (a wrong type is refused, not converted); unknown fields are ignored, but for those of
``env.config`` and of a teacher's ``policy.config``, which go to the task and are checked there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, quote

from pydantic import BaseModel, ConfigDict, Field

from synth_ray.core.errors import ConfigError
from synth_ray.core.origins import VENDORS
from synth_ray.core.types import Endpoint, EpisodeSpec, Sampling
from synth_ray.core.urls import Url, chat_url
from synth_ray.rollout.limits import LIMITS
from synth_ray.rollout.step_rewards import reward_spec_from_block

DEFAULT_TURNS = 10

_OPS = {
    **dict.fromkeys(("agent", "policy", "model"), "agent"),
    **dict.fromkeys(("env", "environment", "step"), "env"),
}
_CID_SAFE = "-_.:"
_CID_NAMES = ("cid", "trace", "trace_correlation_id")
_PASSED_ON = ("use_tools", "thinking_mode", "thinking_budget", "reasoning_effort", "stop", "logprobs", "extra_body")
_TOKENS_TOO = {"logprobs": True, "return_token_ids": True}

Name = Annotated[str, Field(max_length=200)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Positive = Annotated[int, Field(ge=1)]


class _Known(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class _KnownAndMore(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    def rest(self) -> dict[str, Any]:
        """The fields that this model does not know."""
        return dict(self.model_extra or {})


class EnvParams(_Known):
    """Limits of the episode."""

    max_steps_per_episode: Positive | None = Field(None, description="Turns (decisions), not primitive actions.")


class EnvConfig(_KnownAndMore):
    """Settings of the world.

    ``split``, ``index`` and ``difficulty`` are accepted and have no effect: the seed alone makes the world.
    """

    env_params: EnvParams | None = None
    step_rewards: dict[str, Any] | None = None
    split: str | None = None
    index: int | None = None
    difficulty: str | None = None


class EnvRequest(_Known):
    """Which world. A rollout opens its own: ``env_id`` only names it in the answer."""

    env_id: Name | None = None
    env_name: Name | None = None
    seed: Seed | None = Field(None, description="0 if absent.")
    config: EnvConfig = EnvConfig()


class PolicyConfig(_KnownAndMore):
    """Who answers, and how: a teacher of the task by ``provider``, or an OpenAI-compatible ``inference_url``."""

    inference_url: str | None = Field(None, max_length=2000)
    model: Name | None = None
    provider: Name | None = None
    vendor: Name | None = Field(None, description="Another name of provider.")
    temperature: float | None = Field(None, ge=0, le=100, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: Positive | None = None
    max_completion_tokens: Positive | None = None
    thinking_mode: Literal["think", "no_think"] | None = None
    thinking_budget: int | None = Field(None, ge=0)
    use_tools: bool | None = Field(None, description="Whether the task's tool is offered; it is if absent.")
    use_vision: bool | None = Field(None, description="Whether the messages carry a picture.")
    image_only_mode: bool | None = Field(None, description="Whether the picture replaces the text.")
    max_llm_calls: int | None = Field(None, ge=1, le=LIMITS.turns)
    step_rewards: dict[str, Any] | None = Field(None, description="Goes before that of env.config.")
    trace_correlation_id: Name | None = None
    trace: Name | None = None


class PolicyRequest(_Known):
    """Who plays."""

    policy_id: Name | None = None
    policy_name: Name | None = None
    config: PolicyConfig = PolicyConfig()


class OpRequest(_Known):
    """One operation, spelled as an object."""

    type: Name | None = None
    op: Name | None = None


class RecordRequest(_Known):
    """What the answer shall hold. ``value`` is accepted and has no effect: no policy here has a critic."""

    trajectories: bool = True
    logprobs: bool = Field(False, description="The endpoint is asked for them.")
    value: bool = False
    return_trace: bool = False
    trace_format: Literal["compact", "full", "structured"] = "compact"


class SafetyRequest(_Known):
    """Bounds: ``max_ops`` counts agent and env operations, so two a turn; ``max_time_s`` is the episode's deadline."""

    max_ops: int = Field(100_000, ge=2)
    max_time_s: float = Field(
        LIMITS.deadline_s, gt=0, allow_inf_nan=False, description=f"At most {LIMITS.deadline_s:.0f} count."
    )


class RolloutRequest(_Known):
    """One episode. It ends when the world does, whatever ``on_done`` says; ``ops`` may give its length."""

    run_id: Annotated[str, Field(min_length=1, max_length=200)]
    env: EnvRequest
    policy: PolicyRequest
    ops: list[Name | OpRequest] = Field(
        max_length=2 * LIMITS.turns, description="Pairs of agent and env; may be empty."
    )
    mode: Literal["rl", "eval"]
    record: RecordRequest = RecordRequest()
    on_done: Literal["reset", "terminate"] = "reset"
    safety: SafetyRequest = SafetyRequest()
    training_session_id: Name | None = None
    synth_base_url: str | None = Field(None, max_length=2000)


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """An episode to play, and what the answer must say beside it."""

    spec: EpisodeSpec
    correlation_id: str
    inference_url: str
    """Whom to look up by the correlation id; always with ``?cid=`` as its first parameter."""


def rollout_plan(request: RolloutRequest, task: str, teachers: Collection[str]) -> RolloutPlan:
    """The episode that the request asks for; ConfigError for what a schema can't say."""
    config = request.policy.config
    provider = config.provider or config.vendor or ""
    cid = _correlation_id(request)
    common = _common(request, task)
    if provider in teachers:
        spec = EpisodeSpec(**common, model=config.model or provider, provider=provider, teacher=config.rest())
        return RolloutPlan(spec, cid, f"teacher://{provider}?cid={quote(cid, safe=_CID_SAFE)}")
    url = _inference_url(config, provider, teachers)
    target = _with_cid(url, cid) if request.mode == "rl" else url
    if not config.model:
        raise ConfigError("policy.config.model must name the model at inference_url")
    vendor = provider if provider in VENDORS else ""
    body = {**_passed_on(config), **(_TOKENS_TOO if request.record.logprobs else {})}
    endpoint = Endpoint(str(target), config.model, vendor, body, cid)
    spec = EpisodeSpec(**common, model=endpoint.model, provider="remote", endpoint=endpoint, sampling=_sampling(config))
    return RolloutPlan(spec, cid, str(_with_cid(url, cid)))


def _common(request: RolloutRequest, task: str) -> dict[str, Any]:
    return {
        "rollout_id": request.run_id,
        "run_id": request.run_id,
        "task": request.env.env_name or task,
        "seed": request.env.seed or 0,
        "env_config": {**_vision(request.policy.config), **request.env.config.rest()},
        "rewards": reward_spec_from_block(request.policy.config.step_rewards or request.env.config.step_rewards or {}),
        "max_turns": _max_turns(request),
        "deadline_s": min(request.safety.max_time_s, LIMITS.deadline_s),
    }


def _vision(config: PolicyConfig) -> dict[str, bool]:
    """The world's settings that clients write into the policy's."""
    wanted = {"use_vision": config.use_vision, "image_only_mode": config.image_only_mode}
    return {name: True for name, on in wanted.items() if on}


def _max_turns(request: RolloutRequest) -> int:
    """The smallest of all limits that the request names."""
    env_params = request.env.config.env_params
    asked = [
        _agent_ops(request.ops),
        request.policy.config.max_llm_calls,
        env_params.max_steps_per_episode if env_params else None,
    ]
    given = [limit for limit in asked if limit] or [DEFAULT_TURNS]
    return min(*given, request.safety.max_ops // 2, LIMITS.turns)


def _agent_ops(ops: list[str | OpRequest]) -> int:
    """Turns in ``ops``: agent and env must take turns; a last agent without its env is played as a whole turn."""
    for index, op in enumerate(ops):
        name = op if isinstance(op, str) else op.type or op.op or ""
        expected = ("agent", "env")[index % 2]
        if _OPS.get(name) != expected:
            known = [alias for alias, meaning in _OPS.items() if meaning == expected]
            raise ConfigError(f"ops[{index}] must be one of {', '.join(known)}", "ops are pairs of 'agent' and 'env'")
    return (len(ops) + 1) // 2


def _correlation_id(request: RolloutRequest) -> str:
    config = request.policy.config
    query = parse_qs(chat_url(config.inference_url).query if config.inference_url else "")
    candidates = (config.trace_correlation_id, config.trace, *(query.get(name, [""])[0] for name in _CID_NAMES))
    found = next((candidate for candidate in candidates if candidate), "")
    if not found and request.mode == "rl":
        raise ConfigError(
            "a rollout in mode 'rl' needs a correlation id",
            "set policy.config.trace_correlation_id, or add ?cid=... to inference_url",
        )
    return found or f"trace_{request.run_id}"


def _inference_url(config: PolicyConfig, provider: str, teachers: Collection[str]) -> Url:
    """The chat-completions URL: the path is completed, the query kept."""
    url = config.inference_url or (VENDORS[provider].base_url if provider in VENDORS else "")
    if not url:
        raise ConfigError(
            "policy.config must name who plays",
            f"give inference_url and model, or a provider: {', '.join([*teachers, *VENDORS])}",
        )
    return chat_url(url)


def _with_cid(url: Url, cid: str) -> Url:
    others = [part for part in url.query.split("&") if part and part.partition("=")[0] not in _CID_NAMES]
    return replace(url, query="&".join([f"cid={quote(cid, safe=_CID_SAFE)}", *others]))


def _sampling(config: PolicyConfig) -> Sampling:
    """The contract's defaults where the request says nothing."""
    return Sampling(
        temperature=0.2 if config.temperature is None else config.temperature,
        top_p=config.top_p or 0.95,
        max_tokens=config.max_tokens or config.max_completion_tokens or 512,
    )


def _passed_on(config: PolicyConfig) -> Mapping[str, Any]:
    values = {**config.rest(), **config.model_dump(include={"use_tools", "thinking_mode", "thinking_budget"})}
    return {name: values[name] for name in _PASSED_ON if values.get(name) is not None}
