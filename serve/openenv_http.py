"""OpenEnv's routes: `/reset`, `/step`, `/state`, `/schema`, `/metadata`.

OpenEnv itself keeps sessions on web sockets only. Here `/reset` names the session in the header ``X-Session-Id``, and
`/step` and `/state` take it back; a session is a live environment and ends like one.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Header
from pydantic import BaseModel, ConfigDict, Field

from serve.env_http import Action, Observation, env_step
from serve.http_errors import responses
from serve.http_json import AsciiJson
from serve.http_keys import keyed
from serve.live_envs import LiveEnvs
from serve.task_host import TaskHost
from synth_ray.core.errors import ConfigError
from synth_ray.rollout.contract import Seed

SESSION_HEADER = "X-Session-Id"

_Session = Annotated[str, Header(alias=SESSION_HEADER, max_length=200)]
_MaybeSession = Annotated[str | None, Header(alias=SESSION_HEADER, max_length=200)]


class OpenEnvReset(BaseModel):
    """A new episode; further fields are settings of the world. ``episode_id`` is accepted and has no effect."""

    model_config = ConfigDict(extra="allow", strict=True)

    seed: Seed | None = None
    episode_id: str | None = Field(None, max_length=255)


class OpenEnvAction(Action):
    """One decision: tool calls, the bare list of actions, or a model's whole reply as ``text``."""

    text: str = Field("", max_length=100_000)


class OpenEnvStep(BaseModel):
    """One decision. ``timeout_s`` and ``request_id`` are accepted and have no effect: a step takes milliseconds."""

    model_config = ConfigDict(extra="ignore", strict=True)

    action: OpenEnvAction
    timeout_s: float | None = Field(None, gt=0, allow_inf_nan=False)
    request_id: str | None = Field(None, max_length=255)


class OpenEnvResult(BaseModel):
    """What the player sees now, and what the last decision was worth."""

    observation: Observation
    reward: float | None = None
    done: bool = False


class OpenEnvState(BaseModel):
    """Where the episode stands."""

    model_config = ConfigDict(extra="allow")

    episode_id: str | None = None
    step_count: int = Field(0, ge=0)


class OpenEnvSchema(BaseModel):
    """JSON schemas."""

    action: dict[str, Any]
    observation: dict[str, Any]
    state: dict[str, Any]


class OpenEnvMetadata(BaseModel):
    """What this environment is."""

    name: str
    description: str
    version: str | None = None
    documentation_url: str | None = None


def openenv_router(host: TaskHost, envs: LiveEnvs) -> APIRouter:
    """OpenEnv's routes over the living environments."""
    router = APIRouter(dependencies=[Depends(keyed)], default_response_class=AsciiJson, tags=["openenv"])
    session = {"headers": {SESSION_HEADER: {"schema": {"type": "string"}, "description": "for /step and /state"}}}
    reset_answers = {200: session, **responses(404, body=True)}

    @router.post("/reset", response_model=OpenEnvResult, responses=reset_answers)
    async def reset(
        body: Annotated[OpenEnvReset | None, Body()] = None, x_session_id: _MaybeSession = None
    ) -> AsciiJson:
        """A new session, or with its header an old one from the start, by another seed if one is given."""
        wanted = body or OpenEnvReset()
        config = dict(wanted.model_extra or {})
        if x_session_id and config:
            raise ConfigError(
                "a session keeps the settings that it was made with",
                f"send {SESSION_HEADER} with no more than a seed, or the settings without it for a new session",
            )
        if x_session_id:
            env = await envs.reset(x_session_id, wanted.seed)
        else:
            env = await envs.create(wanted.seed or 0, config)
        answer = {"observation": await env.observation(), "reward": None, "done": False}
        return AsciiJson(answer, headers={SESSION_HEADER: env.env_id})

    @router.post("/step", response_model=OpenEnvResult, responses=responses(404, body=True))
    async def step(body: OpenEnvStep, x_session_id: _Session) -> AsciiJson:
        """One decision."""
        done = await env_step(envs.get(x_session_id), body.action.calls(), body.action.text)
        return AsciiJson({key: done[key] for key in ("observation", "reward", "done")})

    @router.get("/state", response_model=OpenEnvState, responses=responses(404))
    async def state(x_session_id: _Session) -> AsciiJson:
        """Where the session's episode stands."""
        env = envs.get(x_session_id)
        about = {"seed": env.seed, "done": env.done, "achievements": list(env.episode.achievements)}
        return AsciiJson({"episode_id": env.env_id, "step_count": env.steps, **about})

    @router.get("/schema", response_model=OpenEnvSchema, responses=responses())
    async def schema() -> AsciiJson:
        """JSON schemas of actions, observations and states."""
        models: dict[str, type[BaseModel]] = {
            "action": OpenEnvAction,
            "observation": Observation,
            "state": OpenEnvState,
        }
        return AsciiJson({name: model.model_json_schema() for name, model in models.items()})

    @router.get("/metadata", response_model=OpenEnvMetadata, responses=responses())
    async def metadata() -> AsciiJson:
        """Name, description and version."""
        task = host.info([])["task"]
        return AsciiJson({"name": task["name"], "description": task["description"], "version": task["version"]})

    return router
