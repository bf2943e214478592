"""docs/traces.md names every column of a fresh trace database, and its queries run."""

import re
import shlex
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner

from synth_ray.cli.main import cli
from synth_ray.core.types import Message, Provenance, Reply, RewardParts, Rollout, StepFacts, StopReason, Turn
from synth_ray.records.trace_query import ask
from synth_ray.records.traces import LAYOUT, TraceDB


@pytest.fixture
def text(checkout: Path) -> str:
    return (checkout / "docs" / "traces.md").read_text()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    turn = Turn(
        0, (Message("user", "see"),), Reply("go", usage={"output_tokens": 3}), StepFacts(("do",)), RewardParts(), 2.0,
        1.0,
    )  # fmt: skip
    played = Rollout(
        "r1",
        "run",
        "grpo-crafter",
        1,
        "m",
        Provenance.REMOTE,
        (turn,),
        1.0,
        ("collect_wood",),
        StopReason.DONE,
        "",
        3.0,
    )
    path = tmp_path / "traces" / "t.db"
    with TraceDB(path) as traces:
        traces.add([played])
    return path


def test_the_columns_are_those_of_a_fresh_database(text: str, database: Path) -> None:
    connection = sqlite3.connect(database)
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    assert re.findall(r"^## (\w+)$", text, re.MULTILINE) == tables
    for name in tables:
        section = text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        documented = re.findall(r"^\| `(\w+)` \| (\w+) \|", section, re.MULTILINE)
        assert documented == [(row[1], row[2]) for row in connection.execute(f"PRAGMA table_info({name})")]
    nullable = [row[1] for name in tables for row in connection.execute(f"PRAGMA table_info({name})") if not row[3]]
    assert nullable == ["error"]
    connection.close()
    assert f"schema version {LAYOUT.version} " in text


def test_the_queries_run(text: str, database: Path) -> None:
    queries = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
    assert len(queries) == 3
    answers = [ask(database, query, 10, 10.0) for query in queries]
    rows = [answer.rows for answer in answers]
    assert rows == [(("done", 1, None, 0.003),), (("m", 0, 1, 2.0, 0, 3),), (("m", 1, 1.0),)]


def test_the_commands_run_and_a_relative_path_is_in_the_project(
    text: str, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("SYNTH_RAY_HOME", str(tmp_path))
    (tmp_path / "traces" / "mine.db").write_bytes(database.read_bytes())
    (block,) = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    for line in block.splitlines():
        done = CliRunner().invoke(cli, shlex.split(line)[1:], catch_exceptions=False)
        assert done.exit_code == 0, done.output


def test_the_docs_and_the_help_lead_there(checkout: Path) -> None:
    assert "(traces.md)" in (checkout / "docs" / "cli.md").read_text()
    assert "docs/traces.md" in CliRunner().invoke(cli, ["traces", "query", "--help"]).output
