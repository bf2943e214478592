"""What the task app says of itself: liveness, health, service, task and task set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from serve.http_errors import responses
from serve.http_json import AsciiJson
from serve.http_keys import keyed
from serve.task_host import TaskHost
from synth_ray import __version__
from synth_ray.core.errors import ConfigError

SEED_LIMIT = 256
MAX_SEED = 2**31 - 1


def _digits(text: str) -> str:
    """Pydantic alone would read ``0.0`` and ``1_000`` as integers too, which the declared schema refuses."""
    if not (text.isascii() and text.removeprefix("-").isdigit()):
        raise ValueError("a seed is written in digits")
    return text


_Seed = Annotated[int, BeforeValidator(_digits), Field(ge=0, le=MAX_SEED)]
_Seeds = Annotated[list[_Seed] | None, Query(max_length=SEED_LIMIT)]


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class Liveness(BaseModel):
    """The process answers."""

    status: str
    service: str


class AuthInfo(BaseModel):
    """Whether a key is needed; nothing of the key itself."""

    required: bool


class Health(BaseModel):
    """The task app can play. ``status`` is what OpenEnv's clients read, ``healthy`` what task-app clients do."""

    status: str
    healthy: bool
    service: str
    auth: AuthInfo


class Done(BaseModel):
    """The marker that `POST /done` answers."""

    ok: bool
    service: str


class Info(_Open):
    """Service, data set, rubrics, inference and limits."""

    service: dict[str, Any]
    dataset: dict[str, Any]
    rubrics: dict[str, Any] | None
    inference: dict[str, Any]
    limits: dict[str, Any]


class TaskInfo(_Open):
    """One instance of the task."""

    task: dict[str, Any]
    environment: str
    dataset: dict[str, Any]
    rubric: dict[str, Any]
    inference: dict[str, Any]
    limits: dict[str, Any]
    task_metadata: dict[str, Any]


class TaskSet(BaseModel):
    """The set that all instances come from."""

    taskset: dict[str, Any]


def info_router(host: TaskHost) -> APIRouter:
    """The open routes are `GET /` and `HEAD /`."""
    router = APIRouter(default_response_class=AsciiJson)
    needs_key: dict[str, Any] = {"dependencies": [Depends(keyed)], "responses": responses()}

    @router.get("/", response_model=Liveness, responses=_of(414, 431))
    async def root() -> AsciiJson:
        """Liveness, without a key."""
        return AsciiJson({"status": "ok", "service": host.task.name})

    @router.head("/", response_class=AsciiJson, responses=_of(414, 431))
    async def head() -> AsciiJson:
        """Liveness without a body."""
        return AsciiJson({"status": "ok"})

    @router.get("/health", response_model=Health, **needs_key)
    async def health() -> AsciiJson:
        """Health, with a key."""
        name = host.task.name
        return AsciiJson({"status": "healthy", "healthy": True, "service": name, "auth": {"required": True}})

    @router.post("/done", response_model=Done, dependencies=[Depends(keyed)], responses=responses(body=True))
    async def done() -> AsciiJson:
        """A marker for tests: the app takes POST requests with this key."""
        return AsciiJson({"ok": True, "service": host.task.name})

    @router.get("/info", response_model=Info, **needs_key)
    async def info() -> AsciiJson:
        """Service, data set and limits."""
        return AsciiJson(service_info(host.info([])))

    @router.get("/task_info", response_model=TaskInfo | list[TaskInfo] | TaskSet, **needs_key)
    async def task_info(seed: _Seeds = None, seeds: _Seeds = None) -> AsciiJson:
        """The task set; with one seed its instance, with several a list of them."""
        wanted = [*(seed or []), *(seeds or [])]
        if len(wanted) > SEED_LIMIT:
            raise ConfigError(f"{len(wanted)} seeds are more than {SEED_LIMIT}", "ask for fewer at a time")
        if not wanted:
            return AsciiJson({"taskset": task_set(host.info([]))})
        made = await host.seed_infos(wanted)
        infos = [task_instance(info, one) for info, one in zip(made, wanted, strict=True)]
        return AsciiJson(infos[0] if len(infos) == 1 else infos)

    return router


def _of(*statuses: int) -> dict[int | str, dict[str, Any]]:
    declared = responses(*statuses)
    return {status: declared[status] for status in statuses}


def service_info(info: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of `GET /info`, from what the task says of itself."""
    return {
        "service": {"task": info["task"], "version": __version__},
        "dataset": task_set(info),
        "rubrics": info.get("rubric"),
        "inference": _inference(info),
        "limits": info.get("limits", {}),
        **{key: value for key, value in info.items() if key in ("action_space", "observation", "tools")},
    }


def task_set(info: Mapping[str, Any]) -> dict[str, Any]:
    """Where seeds come from: every seed is a world."""
    task = info["task"]
    return {
        "id": f"{task['id']}_procedural",
        "name": task["name"],
        "version": task["version"],
        "splits": ["train"],
        "default_split": "train",
        "seed_range": [0, MAX_SEED],
        "default_seed": 0,
        **info.get("dataset", {}),
    }


def task_instance(info: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """One instance in the contract's shape; what the task says beyond it stays."""
    about = {key: value for key, value in info.items() if key != "seeds"}
    found = next((one for one in info.get("seeds", []) if one.get("seed") == seed), {"seed": seed})
    return {
        **about,
        "dataset": {**task_set(info), "seed": seed},
        "observation": {**info.get("observation", {}), **found},
        "rubric": info.get("rubric") or {},
        "inference": _inference(info),
        "limits": info.get("limits", {}),
        "task_metadata": info.get("task_metadata", {}),
    }


def _inference(info: Mapping[str, Any]) -> dict[str, Any]:
    return {"supports_proxy": True, **info.get("inference", {})}
