"""A deployment after a change of keys: what runs knows that it is outdated, and is replaced."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve.app import Wanted, outdated
from serve.task_app import TaskAppReplica
from synth_ray.core.origins import TASK_APP_NAMES
from synth_ray.core.secrets import KeysFile


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    file = tmp_path / ".env"
    file.write_text("ENVIRONMENT_API_KEY=one\nRAY_AUTH_TOKEN=a\n")
    return file


@pytest.fixture(autouse=True)
def _collector() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)


def test_a_key_that_is_added_or_changed_is_noticed_and_nothing_else(env_file: Path) -> None:
    keys = KeysFile(env_file, TASK_APP_NAMES)
    env_file.write_text("# a comment\nexport ENVIRONMENT_API_KEY='one'\nRAY_AUTH_TOKEN=b\n")
    assert not keys.changed()
    env_file.write_text("ENVIRONMENT_API_KEY=one\nGROQ_API_KEY=new\n")
    assert keys.changed()
    env_file.write_text("ENVIRONMENT_API_KEY=two\n")
    assert keys.changed()
    assert "one" not in str(vars(keys))


def test_the_running_task_app_says_what_makes_it_outdated(env_file: Path, tmp_path: Path) -> None:
    replica = TaskAppReplica("grpo-crafter", str(env_file), "http://127.0.0.1:8000", str(tmp_path))
    wanted = Wanted("grpo-crafter", "/grpo-crafter", None, 1.0, env_file=str(env_file))
    assert outdated(wanted, asyncio.run(replica.ready())) == ""
    with env_file.open("a") as file:
        file.write("GROQ_API_KEY=new\n")
    running = asyncio.run(replica.ready())
    assert outdated(wanted, running) == "its keys have changed"
    assert "new" not in str(running)


def test_another_file_counts_only_if_it_is_there(env_file: Path, tmp_path: Path) -> None:
    running = {"source": "", "env_file": str(env_file), "keys_changed": False}
    other = tmp_path / "other.env"
    wanted = Wanted("grpo-crafter", "/grpo-crafter", None, 1.0, env_file=str(other))
    assert outdated(wanted, running) == ""
    other.write_text("ENVIRONMENT_API_KEY=two\n")
    assert "another file" in outdated(wanted, running)


def test_an_own_task_is_replaced_with_its_file_or_without_an_answer() -> None:
    own = Wanted("my.Task", "/my.Task", None, 1.0, source="abc")
    assert "changed" in outdated(own, {"source": "old"})
    assert outdated(own, {"source": "abc"}) == ""
    assert outdated(own, None)
    assert outdated(Wanted("grpo-crafter", "/", None, 1.0), None) == ""
