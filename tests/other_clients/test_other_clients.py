"""Other people's clients, unmodified, on what we make: the gateway, and the files that `filter` writes.

`make test-clients` fetches them and runs this; `make test-long` runs it if they are there.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serve.models import built_in
from serve.task_host import TaskHost
from synth_ray.core.origins import InferenceOrigins
from synth_ray.core.paths import Home
from synth_ray.core.types import Endpoint, EpisodeSpec, Rollout
from synth_ray.records.filter_run import run_filter
from synth_ray.records.sft_data import read_sft, write_sft
from synth_ray.records.traces import TraceDB
from synth_ray.rollout.chat import load_chat
from tests.other_clients.packages import run, there
from tests.unit.fake_provider import as_json, completion, fake_provider
from tests.unit.live_app import live_app
from tests.unit.scripted_gateway import KEY, MODEL, RL, ScriptedEngine, gateway_app, gateway_home

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

TASK, TURNS = "grpo-crafter", 6
DATASETS_CHUNK = 10 << 20


def needs(packages: str) -> Any:
    return pytest.mark.skipif(not there(packages), reason=f"no {packages} here: make test-clients")


# The gateway and the `openai` client.


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return gateway_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def gateway(home: Home) -> Iterator[str]:
    with live_app(gateway_app(home, ScriptedEngine(home.models / MODEL))) as origin:
        yield f"{origin}/v1"


@pytest.mark.parametrize(("packages", "major"), [pytest.param("openai2", "2", marks=needs("openai2")), ("", "3")])
def test_the_openai_client_works_unmodified(gateway: str, tmp_path: Path, packages: str, major: str) -> None:
    said = run("drive_openai.py", packages, tmp_path, gateway, MODEL, RL, OPENAI_API_KEY=KEY)
    assert said.startswith(f"version {major}.")
    assert said.count("\nok ") == 11


# The files, `datasets` and TRL.


def call(name: str, arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"id": "call_1", "type": "function", "function": function}


MANY = call("interact_many", {"actions": ["move_right", "do"]})
REPLIES: list[dict[str, Any]] = [
    {"content": None, "tool_calls": [MANY]},
    {"content": "I go.", "reasoning_content": "Why not?", "tool_calls": [MANY, call("interact", {"action": "do"})]},
    {"content": "2026-01-01T00:00:00"},
    {"content": None, "tool_calls": [call("interact_many", {"actions": "do", "deep": {"a": [1, 0.5, None]}})]},
    {"content": "\u2028 \r\n <|im_end|> \U0001f600"},
    {"content": None, "tool_calls": [call("noop", {})]},
]


def play(host: TaskHost, provider: str, seeds: range, endpoint: Endpoint | None = None) -> list[Rollout]:
    async def main() -> list[Rollout]:
        try:
            return [
                await host.play(
                    EpisodeSpec(
                        f"{provider}-{seed}", "run", TASK, seed, provider, provider, endpoint=endpoint, max_turns=TURNS
                    )
                )
                for seed in seeds
            ]
        finally:
            await host.chat.aclose()

    rollouts = asyncio.run(main())
    assert all(rollout.ok for rollout in rollouts)
    return rollouts


def remote_rollouts() -> list[Rollout]:
    """By a model that calls tools now and then, with arguments of many shapes."""
    with fake_provider() as server:
        server.plays += [as_json(completion({"role": "assistant", **reply})) for reply in REPLIES]
        host = TaskHost(TASK, None, InferenceOrigins([], {server.origin: "sk-0123456789"}))
        return play(host, "remote", range(1), Endpoint(server.origin, "fake-model"))


def filtered(folder: Path, rollouts: list[Rollout], form: str) -> Path:
    """What `filter` writes of the rollouts into a new folder."""
    folder.mkdir()
    with TraceDB(folder / "traces.db") as database:
        database.add(rollouts)
    toml = folder / "filter.toml"
    toml.write_text(f'[filter]\ndb = "traces.db"\noutput = "data.jsonl"\nformat = "{form}"\n')
    assert run_filter([toml], [], folder)["lines"] == sum(len(rollout.turns) for rollout in rollouts)
    return folder / "data.jsonl"


def loaded(*paths: Path, **more: Any) -> list[dict[str, Any]]:
    """The files as `datasets` sees them."""
    said = run("drive_datasets.py", "trl", paths[0].parent, json.dumps(more), *map(str, paths))
    return [json.loads(line) for line in said.splitlines() if line.startswith('{"columns"')]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n") if line]


@needs("trl")
@pytest.mark.parametrize("form", ["openai", "trl"])
def test_datasets_loads_what_the_filter_writes(tmp_path: Path, form: str) -> None:
    """Columns are typed if all lines have the same keys, as the expert's have, and plain JSON if not."""
    expert, remote = play(TaskHost(TASK, None), "expert", range(2)), remote_rollouts()
    alone, mixed = filtered(tmp_path / "alone", expert, form), filtered(tmp_path / "mixed", [*expert, *remote], form)
    seen = loaded(alone, mixed)
    assert [one["columns"] for one in seen] == [["messages", "metadata"]] * 2
    assert [one["rows"] for one in seen] == [lines(alone), lines(mixed)]
    calls = [one for row in seen[1]["rows"] for one in row["messages"][-1].get("tool_calls", [])]
    as_written = str if form == "openai" else dict
    assert [type(one["function"]["arguments"]) for one in calls] == [as_written] * 5


@needs("trl")
def test_a_large_file_loads_in_one_chunk(tmp_path: Path) -> None:
    """By itself `datasets` takes the columns from the first 10 MiB, so a tool call after them is an error."""
    path = tmp_path / "data.jsonl"
    said = {"role": "assistant", "content": "x" * 4000}
    rows = [{"messages": [said]}] * 2700 + [{"messages": [{**said, "tool_calls": [MANY]}]}]
    write_sft(path, rows, {})
    assert path.stat().st_size > DATASETS_CHUNK
    (seen,) = loaded(path, chunksize=1 << 30)
    assert seen["rows"] == rows


@needs("trl")
def test_trl_trains_on_the_experts_turns(tmp_path: Path, home: Home) -> None:
    model = built_in(MODEL, home)
    path = filtered(tmp_path / "data", play(TaskHost(TASK, None), "expert", range(2)), "trl")
    done = trained(path, model)
    chat = load_chat(str(model))
    ours = [list(ids) for each in read_sft(path) for ids, _ in chat.demonstrations(each.messages)]
    assert [example["ids"] for example in done["examples"]] == ours


@needs("trl")
def test_trl_trains_on_the_assistants_tool_calls_alone(tmp_path: Path, home: Home) -> None:
    model = built_in(MODEL, home)
    done = trained(filtered(tmp_path / "data", remote_rollouts(), "trl"), model, "assistant")
    for example in done["examples"]:
        prompt = example["labels"].count(-100)
        assert 0 < prompt < len(example["ids"])
        assert example["labels"] == [-100] * prompt + example["ids"][prompt:]
    arguments = load_chat(str(model)).reply_ids(MANY["function"]["arguments"])[:-1]
    assert [shows(example["labels"], arguments) for example in done["examples"]] == [True, True, *[False] * 4]


def shows(ids: list[int], wanted: tuple[int, ...]) -> bool:
    """Whether ``wanted`` stands somewhere in ``ids``."""
    return any(tuple(ids[at : at + len(wanted)]) == wanted for at in range(len(ids)))


def trained(path: Path, model: Path, *more: str) -> dict[str, Any]:
    """One step of TRL's trainer."""
    said = run("drive_trl.py", "trl", path.parent, str(path), str(model), *more)
    result: dict[str, Any] = json.loads(said.splitlines()[-1])
    assert result["steps"] == 1
    assert 0 < result["loss"] < math.inf
    return result
