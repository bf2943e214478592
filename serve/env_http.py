"""The environment's lifecycle over HTTP: make one, step it by hand, throw it away."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, ConfigDict, Field

from serve.http_errors import responses
from serve.http_json import AsciiJson
from serve.http_keys import keyed
from serve.live_envs import LiveEnv, LiveEnvs
from serve.task_host import TaskHost
from synth_ray.core.errors import NotFoundError
from synth_ray.rollout.contract import EnvConfig, Name, Seed
from synth_ray.rollout.tool_calls import TOOL_NAME, openai_call

MAX_CALLS = 100

_EnvName = Annotated[str, Path(max_length=200)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class CreateRequest(_Body):
    """A new environment; ``parent_env_id`` and ``rl_run_id`` are accepted and have no effect."""

    env_name: Name
    config: EnvConfig = EnvConfig()
    seed: Seed | None = None
    parent_env_id: Name | None = None
    rl_run_id: Name | None = None


class InitializeRequest(_Body):
    """A new environment of the named kind; ``world_config`` is accepted and has no effect, like a difficulty."""

    seed: Seed | None = None
    world_config: Name | dict[str, Any] | None = None
    config: EnvConfig = EnvConfig()


class ResetRequest(_Body):
    """Back to the start; another ``seed`` makes another world."""

    env_id: Name
    seed: Seed | None = None


class ToolCall(BaseModel):
    """A call in any spelling: ``tool_name``/``tool``/``name`` and ``arguments``/``args``, or OpenAI's ``function``."""

    model_config = ConfigDict(extra="allow")


class StepRequest(_Body):
    """One decision."""

    env_id: Name
    tool_calls: list[ToolCall] = Field(max_length=MAX_CALLS)


class Action(_Body):
    """One decision: tool calls, or the bare list of actions."""

    tool_calls: list[ToolCall] = Field([], max_length=MAX_CALLS)
    actions: list[Name] = Field([], max_length=MAX_CALLS)

    def calls(self) -> list[dict[str, Any]]:
        """OpenAI-shaped tool calls."""
        bare = [{"tool": TOOL_NAME, "args": {"actions": list(self.actions)}}] if self.actions else []
        return [openai_call(call) for call in [*(one.model_dump() for one in self.tool_calls), *bare]]


class NamedStepRequest(_Body):
    """One decision."""

    env_id: Name
    action: Action


class TerminateRequest(_Body):
    """The end of an environment."""

    env_id: Name


class Observation(BaseModel):
    """What a player sees: the text that a model is shown, its picture if it has one, and everything unlocked so far."""

    text: str
    image: str = Field("", description="A data URL; absent without a picture.")
    achievements: list[str]


class EnvState(BaseModel):
    """A new or reset environment."""

    env_id: str
    observation: Observation
    info: dict[str, Any]
    step_idx: int


class EnvStep(EnvState):
    """What a decision did; ``done`` if the world has ended, ``reward`` counts the achievements unlocked."""

    done: bool
    reward: float
    truncated: bool


class Terminated(BaseModel):
    """It is gone."""

    ok: bool


def env_router(host: TaskHost, envs: LiveEnvs) -> APIRouter:
    """Routes under `/env`."""
    router = APIRouter(prefix="/env", dependencies=[Depends(keyed)], default_response_class=AsciiJson)
    makes: dict[str, Any] = {"response_model": EnvState, "responses": responses(404, body=True)}
    steps: dict[str, Any] = {"response_model": EnvStep, "responses": responses(404, body=True)}
    ends: dict[str, Any] = {"response_model": Terminated, "responses": responses(404, body=True)}

    @router.post("/create", **makes)
    async def create(body: CreateRequest) -> AsciiJson:
        """A new environment."""
        check_name(host, body.env_name)
        return AsciiJson(await _state(await envs.create(body.seed or 0, body.config.rest())))

    @router.post("/reset", **makes)
    async def reset(body: ResetRequest) -> AsciiJson:
        """An environment back at its start."""
        return AsciiJson(await _state(await envs.reset(body.env_id, body.seed)))

    @router.post("/step", **steps)
    async def step(body: StepRequest) -> AsciiJson:
        """One decision."""
        calls = [openai_call(call.model_dump()) for call in body.tool_calls]
        return AsciiJson(await env_step(envs.get(body.env_id), calls))

    @router.post("/terminate", **ends)
    async def terminate(body: TerminateRequest) -> AsciiJson:
        """The end of an environment."""
        envs.terminate(body.env_id)
        return AsciiJson({"ok": True})

    @router.post("/{env_name}/initialize", **makes)
    async def initialize(env_name: _EnvName, body: InitializeRequest) -> AsciiJson:
        """A new environment of that name."""
        check_name(host, env_name)
        return AsciiJson(await _state(await envs.create(body.seed or 0, body.config.rest())))

    @router.post("/{env_name}/step", **steps)
    async def named_step(env_name: _EnvName, body: NamedStepRequest) -> AsciiJson:
        """One decision in an environment of that name."""
        check_name(host, env_name)
        return AsciiJson(await env_step(envs.get(body.env_id), body.action.calls()))

    @router.post("/{env_name}/terminate", **ends)
    async def named_terminate(env_name: _EnvName, body: TerminateRequest) -> AsciiJson:
        """The end of an environment of that name."""
        check_name(host, env_name)
        envs.terminate(body.env_id)
        return AsciiJson({"ok": True})

    return router


def check_name(host: TaskHost, env_name: str) -> None:
    """NotFoundError unless this app serves the environment of that name."""
    if not host.serves(env_name):
        raise NotFoundError(f"this task app serves {host.task.name!r}, not {env_name!r}")


async def env_step(env: LiveEnv, calls: list[dict[str, Any]], text: str = "") -> dict[str, Any]:
    """One decision and what it did, in the contract's shape."""
    facts = await env.step(calls, text)
    info = {
        "achievements_added": list(facts.unlocked),
        "actions": list(facts.actions),
        "problem": facts.problem,
        "env_steps": facts.env_steps,
    }
    answer = {"done": facts.done, "reward": float(len(facts.unlocked)), "truncated": False}
    return {**await _state(env), "info": info, **answer}


async def _state(env: LiveEnv) -> dict[str, Any]:
    info = {"seed": env.seed}
    return {"env_id": env.env_id, "observation": await env.observation(), "info": info, "step_idx": env.steps}
