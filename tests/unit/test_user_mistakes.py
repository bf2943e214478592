"""What people get wrong: each mistake gives its cause, a hint, the right exit code, and no traceback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from synth_ray.cli.main import main
from synth_ray.core.paths import Home
from synth_ray.core.types import Provenance, Rollout, StopReason
from synth_ray.records.registry import Registry
from synth_ray.records.runs import RunDir
from synth_ray.records.states import State
from synth_ray.records.traces import TraceDB

QUICK = Path(__file__).resolve().parents[2] / "configs" / "quickstart"


@dataclass(frozen=True)
class Mistake:
    """What was typed, the exit code, and words of cause and hint."""

    what: str
    arguments: str
    code: int
    words: tuple[str, ...]


MISTAKES = [
    Mistake("misspelt verb", "trian", 2, ("trian", "Did you mean 'train'")),
    Mistake("misspelt verb of a group", "status jobs gett job_1", 2, ("gett", "did you mean 'get'")),
    Mistake("misspelt option", "status jobs --limt 3", 2, ("--limt", "--limit")),
    Mistake("option without its value", "train rl --config", 2, ("--config", "requires an argument")),
    Mistake("nothing said about what to train", "train -c {rl}", 2, ("say what to train", "--type rl")),
    Mistake("config file that is not there", "train rl -c {quick}/rl_week.toml", 4, ("does not exist", "rl_weak.toml")),
    Mistake("config file that is a folder", "train rl -c {quick}", 2, ("cannot read", "TOML file")),
    Mistake("broken TOML", "train rl -c broken.toml", 2, ("broken.toml is not valid TOML", "line 2")),
    Mistake("misspelt key", "train rl -c {rl} --set training.lerning_rate=1", 2, ("lerning_rate", "'learning_rate'")),
    Mistake("misspelt table", "train rl -c {rl} --set trainig.seed=1", 2, ("trainig", "'training'")),
    Mistake("value out of range", "train rl -c {rl} --set training.group_size=1", 2, ("training.group_size", "2")),
    Mistake("text for a number", "train rl -c {rl} --set training.iterations=ten", 2, ("iterations", "integer")),
    Mistake("--set without a value", "train rl -c {rl} --set training.seed", 2, ("KEY=VALUE", "for example")),
    Mistake("base and source", "train rl -c {rl} --set model.base=x", 2, ("exactly one of",)),
    Mistake("seeds backwards", "eval -c {eval} --seeds 9-0", 2, ("eval.seeds", "ascending")),
    Mistake("config of another verb", "train rl -c {eval}", 2, ("unknown key 'eval'",)),
    Mistake("data for reinforcement learning", "train rl -c {rl} --dataset broken.toml", 2, ("--type sft",)),
    Mistake("data set that is not there", "train sft -c {sft} --dataset no.jsonl", 4, ("no.jsonl", "filter")),
    Mistake("run name that is a path", "train rl -c {rl} --run-name ../up", 2, ("not a usable name", "lower-case")),
    Mistake("run name in use", "train rl -c {rl} --run-name taken", 5, ("in use", "--resume")),
    Mistake("run that is running", "train rl -c {rl} --run-name live", 5, ("running already", "synth-ray logs live")),
    Mistake("resume of nothing", "train rl --resume none", 4, ("no run 'none'",)),
    Mistake("no cluster", "train sft -c {sft}", 3, ("no local cluster", "synth-ray deploy")),
    Mistake("job that is not there", "logs job_taken1", 4, ("no job 'job_taken1'", "job_taken")),
    Mistake("waiting for nobody", "train wait", 2, ("say what to wait for",)),
    Mistake("filter without traces", "filter -c {filter}", 4, ("no trace database", "quickstart.db")),
    Mistake(
        "filter too strict", "filter -c strict.toml", 4, ("none of the 1 episodes", "min_official_score", "seen is 2")
    ),
    Mistake("upload of what is no data set", "files upload broken.toml", 7, ("line 1", "messages")),
    Mistake("upload of a missing file", "files upload nothing.jsonl", 4, ("nothing.jsonl", "check the path")),
    Mistake("trace database that is none", "filter -c {filter} --set filter.db=text.db", 7, ("text.db", "another")),
    Mistake("diff with an unfinished evaluation", "eval diff job_cut job_cut", 1, ("has no result", "eval --resume")),
    Mistake("diff of nothing", "eval diff fft:a:job_1 fft:b:job_2", 4, ("fft:a:job_1",)),
    Mistake("port in use", "up --port {port}", 3, ("is in use", "--port")),
    Mistake("quickstart of a name in use", "quickstart --port {port} --run-name taken", 5, ("in use", "--run-name")),
    Mistake("quickstart of a name with traces", "quickstart --port {port} --run-name seen", 5, ("seen.db", "another")),
    Mistake("quickstart of a name with data", "quickstart --port {port} --run-name data", 5, ("data.jsonl", "another")),
    Mistake("quickstart out of the project", "quickstart --port {port} --run-name ../../x", 2, ("not a usable name",)),
    Mistake("quickstart of a name with capitals", "quickstart --port {port} --run-name My", 2, ("lower-case",)),
    Mistake("env file that is no text", "setup --yes --env-file binary.env", 2, ("not text in UTF-8", "--env-file")),
    Mistake("env file that is a folder", "setup --yes --env-file .", 2, ("is a folder", "--env-file")),
]


@pytest.fixture(scope="module")
def taken_port() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.fixture
def place(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project, and this process in it."""
    shutil.copytree(project, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("SYNTH_RAY_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    return tmp_path


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which some things are there already."""
    folder = tmp_path_factory.mktemp("project")
    home = Home(folder, folder)
    RunDir.create(home.runs, "taken", {})
    with Registry(home.state_db) as registry:
        registry.create_job("rl", "taken", job_id="job_taken")
        registry.set_job_status("job_taken", State.FAILED)
        registry.create_job("rl", "live", job_id="job_live")
        registry.create_job("eval", "job_cut", job_id="job_cut")
        registry.set_job_status("job_cut", State.CANCELLED)
    with TraceDB(folder / "one.db") as traces:
        one = Rollout("r", "run", "t", 1, "m", Provenance.EXPERT, (), 2.0, (), StopReason.TURNS, "", 1.0)
        traces.add([one])
    for name in ("traces/seen.db", "ft_data/data.jsonl"):
        (folder / name).parent.mkdir()
        (folder / name).touch()
    (folder / "binary.env").write_bytes(b"GROQ_API_KEY=\xff\n")
    (folder / "broken.toml").write_text('[model]\nbase = "x\n')
    (folder / "text.db").write_text("this is not a database" * 100)
    (folder / "strict.toml").write_text('[filter]\ndb = "one.db"\noutput = "o.jsonl"\nmin_official_score = 9\n')
    return folder


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The command in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["synth-ray", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.what)
def test_every_mistake_is_explained(
    mistake: Mistake,
    place: Path,
    taken_port: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = {name: QUICK / f"{name}_weak.toml" for name in ("rl", "sft", "filter")}
    arguments = mistake.arguments.format(**names, quick=QUICK, eval=QUICK / "eval.toml", port=taken_port).split()
    code = run(arguments, monkeypatch)
    said = capsys.readouterr()
    assert code == mistake.code, said.err
    for word in mistake.words:
        assert word in said.err
    assert "Traceback" not in said.err
    assert said.out == ""


@pytest.mark.parametrize(
    ("arguments", "kind", "code"),
    [
        ("status jobs --json --limt 3", "usage", 2),
        ("train wait nobody --json", "not_found", 4),
        ("train sft -c {sft} --json", "prerequisite", 3),
        ("train rl -c {rl} --run-name taken --json", "conflict", 5),
        ("files upload broken.toml --json", "corrupt", 7),
    ],
)
def test_errors_as_json_are_one_object(
    arguments: str,
    kind: str,
    code: int,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = {name: QUICK / f"{name}_weak.toml" for name in ("rl", "sft")}
    assert run(arguments.format(**names).split(), monkeypatch) == code
    error = json.loads(capsys.readouterr().out)["error"]
    assert set(error) == {"kind", "message", "hint", "retryable", "details"}
    assert error["kind"] == kind


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place.chmod(0o500)
    assert run(["setup", "--yes"], monkeypatch) == 74
    place.chmod(0o700)
    assert "Traceback" not in capsys.readouterr().err


def test_a_home_that_is_a_file(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SYNTH_RAY_HOME", str(place / "broken.toml"))
    (place / "d.jsonl").write_text('{"messages": [{"role": "assistant", "content": "x"}]}\n')
    assert run(["files", "upload", "d.jsonl"], monkeypatch) == 74
    assert "broken.toml" in capsys.readouterr().err


def test_the_list_is_long_enough() -> None:
    assert len({mistake.what for mistake in MISTAKES}) >= 20
