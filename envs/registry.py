"""Which tasks exist, by name."""

from __future__ import annotations

from collections.abc import Callable

from envs.crafter.config import did_you_mean
from envs.crafter.info import TASK_NAME
from envs.crafter.task import CrafterTask
from synth_ray.core.errors import NotFoundError
from synth_ray.rollout.task import Task

TASKS: dict[str, Callable[[], Task]] = {
    TASK_NAME: CrafterTask,
    "crafter": CrafterTask,
    "CrafterClassic": CrafterTask,  # as the routes /env/CrafterClassic/... spell it
}


def get_task(name: str) -> Task:
    """The task of that name."""
    if name not in TASKS:
        raise NotFoundError(f"unknown task {name!r}", did_you_mean(name, list(TASKS)))
    return TASKS[name]()
