"""Keys: file modes, rotation, comparison; and the guard in front of the task app."""

import asyncio
import stat
from pathlib import Path
from typing import Any

import pytest

from serve.http_guard import Guard, HttpLimits
from synth_ray.core.errors import ConfigError, PrerequisiteError
from synth_ray.core.secrets import (
    MAX_GIVEN_KEYS,
    KeyRing,
    KeysFile,
    ensure_env_file,
    environment_keys,
    read_env_file,
    set_env_values,
)


def test_env_file_is_private_and_keeps_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("# mine\nGROQ_API_KEY=abc\nENVIRONMENT_API_KEY=\n")
    values = ensure_env_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert values["GROQ_API_KEY"] == "abc"
    assert len(values["ENVIRONMENT_API_KEY"]) >= 32
    assert ensure_env_file(path) == values == read_env_file(path)
    assert path.read_text().startswith("# mine\n")


def test_an_env_file_that_is_no_text_is_named_and_not_shown(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("ENVIRONMENT_API_KEY=k\n")
    watched = KeysFile(path, ["ENVIRONMENT_API_KEY"])
    path.write_bytes(b"GROQ_API_KEY=hunter2\xff\n")
    for use in (read_env_file, ensure_env_file, lambda path: set_env_values(path, {"A": "b"})):
        with pytest.raises(ConfigError, match=r"\.env is not text in UTF-8") as caught:
            use(path)
        assert "hunter2" not in f"{caught.value.as_dict()}"
    assert not watched.changed()
    assert path.read_bytes() == b"GROQ_API_KEY=hunter2\xff\n"


def test_aliases_allow_rotation_and_no_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("ENVIRONMENT_API_KEY='new'\nENVIRONMENT_API_KEY_ALIASES=old, older\n")
    assert environment_keys(path, {}) == ["new", "old", "older"]
    assert environment_keys(path, {"ENVIRONMENT_API_KEY": "env"})[0] == "env"
    with pytest.raises(PrerequisiteError, match="does not run without a key"):
        environment_keys(None, {})


def test_one_right_key_among_the_given_is_enough_but_not_among_dozens() -> None:
    ring = KeyRing(["right", "old"])
    assert ring.allows(["right"])
    assert ring.allows(["old", "old"])
    assert ring.allows(["wrong", "right"])
    assert not ring.allows([])
    assert not ring.allows(["wrong"])
    assert not ring.allows(["right", *(f"guess {n}" for n in range(MAX_GIVEN_KEYS))])


def test_two_single_key_headers_that_differ_are_refused() -> None:
    assert call("/info", {"x-api-key": "right", "authorization": "Bearer right", "x-api-keys": "next, right"})[0] == 200
    assert call("/info", {"x-api-key": "right", "authorization": "Bearer old"})[0] == 401
    assert call("/info", {"x-api-key": "right", "authorization": "Bearer old", "x-api-keys": "right"})[0] == 401


@pytest.mark.parametrize("spelling", ["x-api-key", "x-api-keys", "authorization"])
@pytest.mark.parametrize(("key", "status"), [("right", 200), ("wrong", 401), ("righ", 401), ("right2", 401), ("", 401)])
def test_guard_matrix(spelling: str, key: str, status: int) -> None:
    value = f"Bearer {key}" if spelling == "authorization" else key
    assert call("/info", {spelling: value})[0] == status


def test_guard_answers_every_failure_alike() -> None:
    answers = {call(path, headers) for path in ("/info", "/nowhere") for headers in ({}, {"x-api-key": "wrong"})}
    assert len(answers) == 1
    assert call("/", {}, method="GET")[0] == 200
    assert call("/", {})[0] == 401
    assert call("/rollout", {"x-api-key": "right"}, b"x" * (HttpLimits().body_bytes + 1))[0] == 413


def call(path: str, headers: dict[str, str], body: bytes = b"", method: str = "POST") -> tuple[int, bytes]:
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["body"] == body
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": raw}
    asyncio.run(Guard(app, KeyRing(["right", "old"]))(scope, receive, send))
    return sent[0]["status"], sent[1]["body"]
