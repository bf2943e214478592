"""Which tasks exist: the built-in ones by name, and a user's own as ``module:Class``.

An import path comes from the operator only: a config file or the command line. Whatever arrives over HTTP or is read
from a record is compared with ``names`` and never imported.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from envs.crafter.config import did_you_mean
from envs.crafter.info import TASK_NAME
from envs.crafter.task import CrafterTask
from synth_ray.core.errors import ConfigError, NotFoundError
from synth_ray.core.hashing import sha256_file
from synth_ray.core.text import last_line
from synth_ray.rollout.task import Task

TASKS: dict[str, Callable[[], Task]] = {
    TASK_NAME: CrafterTask,
    "crafter": CrafterTask,
    "crafter-task": CrafterTask,  # as files of synth-ai 0.2 may call it, like the next one
    "grpo-crafter-task-app": CrafterTask,
    "CrafterClassic": CrafterTask,  # as the routes /env/CrafterClassic/... spell it
}

_IMPORT_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*")
_IMPORT_HINT = "write module:Class, for example my_env:GuessTask"
_MEMBERS = ("name", "open", "teacher", "teachers", "tools", "tool_call", "prices", "info")


def get_task(app_id: str) -> Task:
    """The task of that name or import path.

    Raises NotFoundError if there is none, ConfigError if it can't be imported or lacks a part of ``Task``.
    """
    if app_id in TASKS:
        return TASKS[app_id]()
    if ":" not in app_id:
        hint = did_you_mean(app_id, list(TASKS))
        raise NotFoundError(f"unknown task {app_id!r}", f"{hint}; a task of your own is module:Class")
    return _instance(app_id, _imported(app_id))


def task_id(app_id: str) -> str:
    """The one name that records give the task, whatever it was called: ``get_task`` knows it."""
    return TASKS[app_id]().name if app_id in TASKS else _checked(app_id)


def app_name(app_id: str) -> str:
    """The name under which the task is served, and its route: ``my_env:GuessTask`` as ``my_env.GuessTask``.

    Different import paths have different names, and none is that of a built-in task, which have no dot.
    """
    return task_id(app_id).replace(":", ".")


def names(app_id: str) -> frozenset[str]:
    """All names of the task: what a request may call it. Imports nothing."""
    if app_id not in TASKS:
        return frozenset({app_id, app_name(app_id)})
    return frozenset(name for name, task in TASKS.items() if task is TASKS[app_id])


def source_digest(app_id: str) -> str:
    """SHA-256 of the file that an imported task is in, else empty: a running task app may hold an older one."""
    if app_id in TASKS:
        return ""
    file = getattr(sys.modules.get(app_id.partition(":")[0]), "__file__", None)
    return sha256_file(Path(file)) if file else ""


def _checked(app_id: str) -> str:
    if not _IMPORT_PATH.fullmatch(app_id):
        raise ConfigError(f"{app_id!r} is no import path", _IMPORT_HINT)
    return app_id


def _imported(app_id: str) -> Any:
    module_name, _, class_name = _checked(app_id).partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigError(f"importing {module_name} failed: no module {error.name!r}") from None
        raise NotFoundError(
            f"there is no module {module_name!r}", f"put {module_name}.py into the project folder, or on PYTHONPATH"
        ) from None
    except Exception as error:
        reason = last_line(str(error), "no message")
        raise ConfigError(f"importing {module_name} failed: {type(error).__name__}: {reason}") from error
    if hasattr(module, class_name):
        return getattr(module, class_name)
    file = getattr(module, "__file__", None)
    if not file:
        raise ConfigError(f"{module_name} is no Python file, so it has no {class_name!r}", _IMPORT_HINT)
    known = [name for name in vars(module) if name.endswith("Task")]
    raise NotFoundError(f"{file} has no {class_name!r}", did_you_mean(class_name, known) if known else "")


def _instance(app_id: str, factory: Any) -> Task:
    lacking = [name for name in _MEMBERS if not hasattr(factory, name)]
    if lacking:
        raise ConfigError(
            f"{app_id} is no task: it lacks {', '.join(lacking)}",
            "subclass synth_ray.rollout.task.Task; see docs/new-environment.md",
        )
    task: Task = factory()
    return task
