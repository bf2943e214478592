"""Tasks by import path: from the operator's word only, and never from a request."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from envs.registry import app_name, get_task, names, source_digest, task_id
from serve.task_host import TaskHost
from serve.task_http import create_app
from synth_ray.core.errors import ConfigError, NotFoundError
from synth_ray.core.hashing import sha256_file
from synth_ray.core.paths import import_also_from
from synth_ray.core.secrets import KeyRing
from synth_ray.core.types import EpisodeSpec

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "new-environment"
MARK = "import pathlib; pathlib.Path(__file__).with_name('imported').touch()\n"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "mine_env.py").write_text((EXAMPLE / "fetch_env.py").read_text())
    (tmp_path / "trap_env.py").write_text(MARK + "class TrapTask: name = 'trap'\n")
    (tmp_path / "torn_env.py").write_text("1 / 0\n")
    (tmp_path / "needy_env.py").write_text("import not_there_at_all\n")
    import_also_from(tmp_path)
    import_also_from(tmp_path)
    assert sys.path.count(str(tmp_path)) == 1
    yield tmp_path
    sys.path.remove(str(tmp_path))
    for name in ("mine_env", "trap_env", "torn_env", "needy_env"):
        sys.modules.pop(name, None)


def test_a_task_of_the_project_folder(folder: Path) -> None:
    task = get_task("mine_env:FetchTask")
    assert task.name == "fetch"
    assert task.open(1, {}, 2).outcome == 0
    assert app_name("mine_env:FetchTask") == "mine_env.FetchTask"
    assert app_name("crafter") == app_name("grpo-crafter") == "grpo-crafter"
    assert task_id("mine_env:FetchTask") == "mine_env:FetchTask"
    assert {task_id(name) for name in names("crafter")} == {"grpo-crafter"}
    older = {"crafter-task", "grpo-crafter-task-app"}
    assert names("crafter") == {"crafter", "grpo-crafter", "CrafterClassic"} | older
    assert source_digest("mine_env:FetchTask") == sha256_file(folder / "mine_env.py")
    assert source_digest("grpo-crafter") == ""


@pytest.mark.parametrize(
    ("app_id", "error", "words"),
    [
        ("os:system", ConfigError, "is no task: it lacks name, open, teacher, teachers, tools"),
        ("sys:FooTask", ConfigError, "sys is no Python file, so it has no 'FooTask'"),
        ("mine_env:FetchTusk", NotFoundError, "FetchTusk"),
        ("no_such_env:Task", NotFoundError, "no module 'no_such_env'"),
        ("torn_env:Task", ConfigError, "importing torn_env failed: ZeroDivisionError"),
        ("needy_env:Task", ConfigError, "no module 'not_there_at_all'"),
        ("../up:Task", ConfigError, "no import path"),
        ("a b:Task", ConfigError, "no import path"),
        (":", ConfigError, "no import path"),
        ("mine_env:FetchTask.open", ConfigError, "no import path"),
        ("mine_env:FetchTask\n", ConfigError, "no import path"),
        ("crafted", NotFoundError, "unknown task"),
    ],
)
def test_what_is_wrong_is_told(folder: Path, app_id: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        get_task(app_id)
    assert words in str(caught.value)


async def _no_engine(_: object) -> list[object]:
    raise AssertionError("no engine here")


@pytest.mark.parametrize("served", ["grpo-crafter", "mine_env:FetchTask"])
def test_a_request_names_the_served_task_and_imports_nothing(folder: Path, served: str) -> None:
    host = TaskHost(served, _no_engine)  # type: ignore[arg-type]
    before = set(sys.modules)
    with TestClient(create_app(host, KeyRing(("k" * 32,)))) as client:

        def status(name: str | None) -> int:
            env = {"seed": 1} | ({} if name is None else {"env_name": name})
            body = {"run_id": f"r-{name}", "env": env, "policy": {"config": {"provider": "expert", "max_llm_calls": 1}}}
            body |= {"ops": [], "mode": "eval"}
            return int(client.post("/rollout", json=body, headers={"X-API-Key": "k" * 32}).status_code)

        assert [status(name) for name in (None, served, host.task.name, app_name(served))] == [200] * 4
        for name in (
            "os:system",
            "trap_env:TrapTask",
            "trap_env",
            "../trap_env:TrapTask",
            "mine_env",
            "subprocess:run",
        ):
            assert status(name) == 404, name
    assert not (folder / "imported").exists()
    assert "trap_env" not in set(sys.modules) - before
    with pytest.raises(NotFoundError, match="not 'trap_env:TrapTask'"):
        asyncio.run(host.play(EpisodeSpec("r", "r", "trap_env:TrapTask", 1, "expert", provider="expert")))
