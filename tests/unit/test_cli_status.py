"""status, logs, wait, files and eval diff on records that no cluster stands behind any more."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from synth_ray.cli.job_feed import step_line
from synth_ray.cli.main import cli
from synth_ray.cli.train_verbs import check_name_is_free
from synth_ray.core.errors import SynthRayError
from synth_ray.core.paths import Home
from synth_ray.core.types import Provenance, Rollout, StopReason
from synth_ray.records.job_files import JobFiles
from synth_ray.records.metrics import MetricsLog
from synth_ray.records.registry import Model, Registry
from synth_ray.records.run_record import write_config
from synth_ray.records.run_summary import sparkline
from synth_ray.records.runs import RunDir
from synth_ray.records.states import State
from synth_ray.records.traces import TraceDB
from tests.quickness import quickest

FFT, RL, RL2 = "fft:crafter-tiny:job_sft", "rl:crafter-tiny:job_rl", "rl:crafter-tiny:job_rl2"


@pytest.fixture
def home(records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A copy of the records, to be changed at will."""
    shutil.copytree(records, tmp_path, dirs_exist_ok=True, symlinks=True)
    monkeypatch.setenv("SYNTH_RAY_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return Home(tmp_path, tmp_path)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One fine-tune, two RL runs (one of them cancelled), two evaluations."""
    tmp_path = tmp_path_factory.mktemp("records")
    home = Home(tmp_path, tmp_path)
    with Registry(home.state_db) as registry:
        _run(home, "job_sft", [], State.SUCCEEDED)
        _job(home, registry, "sft", "job_sft", "job_sft", {"model": FFT})
        registry.add_model(Model(FFT, "crafter-tiny", "full", "/m", "d1", "job_sft"))
        for job_id, name, model, rewards in (
            ("job_rl", "run-a", RL, [0.25, 0.5, 1.0]),
            ("job_rl2", "run-b", RL2, [0.5, 0.25]),
        ):
            _run(home, name, rewards, State.SUCCEEDED if job_id == "job_rl" else State.CANCELLED)
            _job(home, registry, "rl", job_id, name, {"model": model, "batch_rewards": rewards})
            registry.add_model(Model(model, FFT, "adapter", "/a", job_id, job_id, base_path="/m"))
        for job_id, model, better in (("job_ea", FFT, 0.0), ("job_eb", RL, 1.0)):
            traces = tmp_path / "traces.db"
            with TraceDB(traces) as database:
                database.add([_rollout(job_id, seed, seed % 3 + better) for seed in range(20)])
            result = {"model": model, "mean": 1.0 + better, "se": 0.1, "n": 20, "trace_db": str(traces)}
            _job(home, registry, "eval", job_id, job_id, {**result, "eval_id": job_id})
    return tmp_path


def _job(home: Home, registry: Registry, kind: str, job_id: str, name: str, result: dict[str, Any]) -> None:
    registry.create_job(kind, name, job_id=job_id)
    registry.set_job_status(job_id, State.RUNNING)
    registry.set_job_status(job_id, State.SUCCEEDED, result=result)
    files = JobFiles(home.jobs / job_id)
    files.event("wait", note="the engine (3 s)")
    files.log_path.write_text(f"hello from {job_id}\nno line end \x1b[31mred")
    files.succeeded(result)


def _run(home: Home, name: str, rewards: list[float], state: State) -> None:
    run = RunDir.create(home.runs, name, {"training": {"iterations": 3}})
    run.start_attempt()
    run.set_state(State.RUNNING)
    with MetricsLog(run.metrics) as log:
        for step, reward in enumerate(rewards):
            log.append(step, {"reward/mean": reward, "reward/std": 0.5, "judge/quality": 0.7, "loss": -0.01})
    run.set_state(state)


def _rollout(run: str, seed: int, outcome: float) -> Rollout:
    got = ("wood",) if outcome >= 1 else ()
    return Rollout(
        f"{run}-{seed}", run, "crafter", seed, "m", Provenance.ENGINE, (), outcome, got, StopReason.TURNS, "", 1.0
    )  # fmt: skip


def call(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


def answer(*arguments: str) -> Any:
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("status", "jobs", "--status", "nonsense"), ("'nonsense'", "paused_disk", "succeeded")),
        (("status", "jobs", "--type", "evil"), ("'evil'", "eval", "deploy")),
        (("status", "files", "--purpose", "nonsense"), ("'nonsense'", "fine-tune")),
    ],
)
def test_a_filter_with_an_unknown_value_is_a_usage_error(
    home: Home, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    refused = call(*arguments)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert all(word in refused.stderr for word in words), refused.stderr


def test_a_filter_that_nothing_fits_says_so(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in (("jobs", "--status", "running"), ("jobs", "--type", "deploy"), ("files", "--purpose", "other")):
        shown = call("status", *arguments)
        assert (shown.exit_code, shown.stdout) == (0, "")
        assert shown.stderr == "nothing fits; without the filters you see all\n"
    monkeypatch.setenv("SYNTH_RAY_HOME", str(tmp_path / "new"))
    assert "quickstart" in call("status", "jobs").stderr


@pytest.mark.parametrize("what", ["jobs", "models", "runs", "files"])
def test_bare_is_list(home: Home, what: str) -> None:
    assert call("status", what).stdout == call("status", what, "list").stdout
    value = answer("status", what)
    assert value["schema"] == f"synth-ray/status.{what}/1"
    assert value["as_of"].endswith("Z")
    assert value["data"] == answer("status", what, "list")["data"]


def test_jobs(home: Home) -> None:
    rows = answer("status", "jobs", "--type", "rl")["data"]
    assert [row["job_id"] for row in rows] == ["job_rl2", "job_rl"]
    assert answer("status", "jobs", "--status", "running")["data"] == []
    assert "1.000 +- 0.100" in call("status", "jobs").stdout
    assert answer("status", "jobs", "get", "run-a")["data"]["result"]["model"] == RL
    assert "job_rl2" in call("status", "jobs", "get", "run-b").stdout


def test_runs_side_by_side(home: Home) -> None:
    runs = {row["name"]: row for row in answer("status", "runs")["data"]}
    assert (runs["run-a"]["first"], runs["run-a"]["last"], runs["run-a"]["best"]) == (0.25, 1.0, 1.0)
    assert (runs["run-b"]["state"], runs["run-b"]["steps"], runs["run-b"]["total"]) == ("CANCELLED", 2, 3)
    assert runs["run-a"]["eval"]["mean"] == 2.0
    assert runs["run-b"]["eval"] is None
    assert runs["job_sft"]["eval"]["mean"] == 1.0
    shown = call("status", "runs", "compare", "run-a", "run-b").stdout
    assert "▁" in shown
    assert [line.split() for line in shown.splitlines() if line.startswith("step ")] == [
        ["step", "0", "0.250", "0.500"],
        ["step", "1", "0.500", "0.250"],
        ["step", "2", "1.000", "-"],
    ]
    assert answer("status", "runs", "get", "run-b")["data"]["rewards"] == [0.5, 0.25]
    assert call("status", "runs", "get", "run-c").exception.__class__.__name__ == "NotFoundError"


def test_a_damaged_run_does_not_hide_the_others(home: Home) -> None:
    (home.runs / "run-a" / "run.json").write_text("{")
    assert {row["name"]: row["state"] for row in answer("status", "runs")["data"]} == {
        "run-a": "CORRUPT",
        "run-b": "CANCELLED",
        "job_sft": "SUCCEEDED",
    }


def test_the_tree_of_models(home: Home) -> None:
    lines = call("status", "models", "--tree").stdout.splitlines()[2:]
    assert lines[0].rstrip() == "crafter-tiny"
    assert lines[1].startswith(f"└─ {FFT} ")
    assert lines[2].startswith(f"   ├─ {RL} ")
    assert lines[3].startswith(f"   └─ {RL2} ")
    assert "job_rl2" in lines[3].split()
    assert answer("status", "models", "get", RL)["data"]["ancestors"] == [FFT, "crafter-tiny"]


def test_summary(home: Home) -> None:
    value = answer("status", "summary")["data"]
    assert value["jobs"] == {"SUCCEEDED": 5}
    assert value["runs"] == {"run-a": "SUCCEEDED", "run-b": "CANCELLED", "job_sft": "SUCCEEDED"}
    assert value["cluster"] is None


def test_logs_without_a_cluster(home: Home) -> None:
    by_name = call("train", "logs", "--run-name", "run-a")
    assert by_name.exit_code == 0, by_name.output
    lines = by_name.stdout.splitlines()
    assert lines[0] == "hello from job_rl"
    assert "waits for the engine" in lines
    assert "step 0  reward 0.25 +- 0.5  judge/quality 0.7  loss -0.01" in lines
    assert lines[-1] == "no line end [31mred"  # no control characters
    assert by_name.stdout == call("logs", "job_rl").stdout == call("status", "jobs", "logs", "run-a").stdout
    assert call("logs", "job_rl", "-n", "1").stdout.splitlines() == lines[-1:]
    assert set(call("logs", "run-a", "-f").stdout.splitlines()) == set(lines)


def test_following_ends_with_the_job(home: Home) -> None:
    with Registry(home.state_db) as registry:
        registry.create_job("rl", "live", job_id="job_live")
        registry.set_job_status("job_live", State.RUNNING)
    files = JobFiles(home.jobs / "job_live")
    files.log_path.write_text("first\n")

    def work() -> None:
        time.sleep(0.7)
        with files.log_path.open("a") as log:
            log.write("second\nthird")
        with Registry(home.state_db) as registry:
            registry.set_job_status("job_live", State.FAILED, "it broke")

    worker = threading.Thread(target=work)
    worker.start()
    result = call("train", "logs", "--run-name", "live", "-f")
    worker.join()
    assert result.stdout.splitlines() == ["first", "second", "third"]
    assert "FAILED: it broke" in result.stderr


def test_waiting(home: Home) -> None:
    assert call("train", "wait", "run-a", "--run-name", "run-b").exit_code == 0
    with Registry(home.state_db) as registry:
        registry.create_job("rl", "failed", job_id="job_f")
        registry.set_job_status("job_f", State.FAILED, "why")
        registry.create_job("rl", "live", job_id="job_live")
    assert call("train", "wait", "run-a", "failed").exit_code == 1
    waited = call("train", "wait", "live", "--timeout", "0.1")
    assert isinstance(waited.exception, SynthRayError)
    assert waited.exception.exit_code == 124
    rows = answer("train", "wait", "job_sft")["data"]
    assert rows[0]["status"] == "SUCCEEDED"


def test_a_job_whose_cluster_is_gone_has_failed(home: Home) -> None:
    with Registry(home.state_db) as registry:
        registry.create_job("rl", "lost", job_id="job_lost")
        registry.set_job_status("job_lost", State.RUNNING)
    JobFiles(home.jobs / "job_lost").submitted_to("gone")
    assert call("train", "wait", "lost", "--timeout", "5").exit_code == 1
    assert "the cluster that ran it is gone" in call("status", "jobs").stdout


def _unfinished(home: Home, name: str, kind: str, job_id: str, cluster: str) -> RunDir:
    """A run that says that it runs, and so does its job."""
    with Registry(home.state_db) as registry:
        registry.create_job(kind, name, job_id=job_id)
        registry.set_job_status(job_id, State.RUNNING)
    if cluster:
        JobFiles(home.jobs / job_id).submitted_to(cluster)
    path = home.runs / name
    run = RunDir(path) if path.exists() else RunDir.create(home.runs, name, {"training": {"iterations": 3}})
    run.start_attempt(job_id)
    run.set_state(State.RUNNING)
    return run


@pytest.mark.parametrize("kind", ["rl", "sft"])
@pytest.mark.parametrize(
    "verb", [("runs",), ("runs", "compare", "lost", "live"), ("runs", "get", "lost"), ("summary",)]
)
def test_a_killed_run_is_shown_as_its_job(home: Home, kind: str, verb: tuple[str, ...]) -> None:
    _unfinished(home, "lost", kind, "job_lost", "gone")
    _unfinished(home, "live", kind, "job_live", "")
    found = answer("status", *verb)["data"]
    if verb == ("summary",):
        assert (found["runs"]["lost"], found["runs"]["live"]) == ("FAILED", "RUNNING")
        return
    runs = {run["name"]: run for run in (found if isinstance(found, list) else [found])}
    assert (runs["lost"]["state"], runs["lost"]["error"]) == ("FAILED", "the cluster that ran it is gone")
    assert "live" not in runs or runs["live"]["state"] == "RUNNING"
    time.sleep(0.2)
    assert answer("status", "runs", "get", "lost")["data"]["duration_s"] == runs["lost"]["duration_s"]


def test_a_killed_run_that_is_resumed_runs_again(home: Home) -> None:
    run = _unfinished(home, "lost", "rl", "job_lost", "gone")
    assert answer("status", "runs", "get", "lost")["data"]["state"] == "FAILED"
    check_name_is_free(home, "lost", resume=True)
    assert RunDir.resume(home.runs, "lost", run.config()).record().state is State.RUNNING  # nobody else writes into it
    _unfinished(home, "lost", "rl", "job_again", "")
    shown = answer("status", "runs", "get", "lost")["data"]
    assert (shown["state"], shown["error"], shown["attempts"]) == ("RUNNING", None, 2)
    assert [one.state for one in run.record().attempts] == [State.FAILED, State.RUNNING]


def test_files(home: Home) -> None:
    line = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}
    Path("train.jsonl").write_text(json.dumps(line) + "\n")
    file_id = call("files", "upload", "train.jsonl").stdout.strip()
    assert answer("files", "upload", "train.jsonl")["data"]["file_id"] == file_id
    assert [row["file_id"] for row in answer("files", "list")["data"]] == [file_id]
    assert answer("status", "files")["data"] == answer("files", "list")["data"]
    assert call("files", "get", file_id, "-o", "copy.jsonl").exit_code == 0
    assert Path("copy.jsonl").read_bytes() == Path("train.jsonl").read_bytes()
    assert call("files", "get", file_id, "-o", "copy.jsonl").exception.exit_code == 5  # type: ignore[union-attr]


def test_eval_diff(home: Home) -> None:
    found = answer("eval", "diff", "job_ea", "job_eb")["data"]
    assert found == {**answer("eval", "diff", FFT, RL)["data"]}
    assert (found["n_common"], found["better"]) == (20, 20)
    score = found["score"]
    assert (score["difference"], score["low"], score["high"]) == (1.0, 1.0, 1.0)
    assert found["achievements"][0]["name"] == "wood"
    shown = call("eval", "diff", "job_ea", "job_eb")
    assert "B is clearly better" in shown.stderr
    assert "outcome reward" in shown.stdout


def test_resume_takes_the_saved_configuration(home: Home) -> None:
    config = {"eval": {"model": "m", "seeds": [1, 2]}}
    write_config(JobFiles(home.jobs / "job_ea").config_path, config, {})
    shown = call("eval", "--resume", "job_ea", "--dry-run")
    assert json.loads(shown.stdout)["config"]["eval"]["seeds"] == [1, 2]
    assert call("eval", "--resume", "job_rl", "--dry-run").exception.exit_code == 4  # type: ignore[union-attr]


def test_a_run_is_resumed_as_what_it_is(home: Home) -> None:
    RunDir.create(home.runs, "tuned", {"job": {"data": "x.jsonl"}})
    for kind, name, its in (("rl", "tuned", "sft"), ("sft", "run-a", "rl"), ("sft", "job_rl", "rl")):
        refused = call("train", "--type", kind, "--resume", name, "--dry-run").exception
        assert isinstance(refused, SynthRayError)
        run = "run-a" if name == "job_rl" else name
        assert (refused.exit_code, refused.message) == (2, f"run {run!r} is of type {its}")
        assert refused.hint == f"go on with: synth-ray train --type {its} --resume {run}"
    assert call("train", "--type", "sft", "--resume", "tuned", "--dry-run").exit_code == 0


def test_an_evaluation_is_not_resumed_while_any_attempt_of_it_runs(home: Home) -> None:
    write_config(JobFiles(home.jobs / "job_ea").config_path, {"eval": {"model": "m", "seeds": [1, 2]}}, {})
    with Registry(home.state_db) as registry:
        registry.create_job("eval", "job_ea", job_id="job_again")
        for name in ("job_ea", "job_again"):
            refused = call("eval", "--resume", name, "--dry-run").exception
            assert isinstance(refused, SynthRayError)
            assert (refused.exit_code, refused.message) == (5, "evaluation job_again is running")
        registry.set_job_status("job_again", State.FAILED)
    assert call("eval", "--resume", "job_ea", "--dry-run").exit_code == 0


@pytest.mark.parametrize("what", ["jobs", "files"])
def test_a_watch_repeats_and_ends_with_zero(home: Home, what: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "synth_ray.cli.main", "status", what, "--json", "--watch", "0.1"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "SYNTH_RAY_HOME": str(home.state)},
        preexec_fn=_default_sigint,
    )
    assert process.stdout
    first, second = (json.loads(process.stdout.readline()) for _ in range(2))
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    assert first["data"] == second["data"]


def _default_sigint() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a test run in the background ignores it, and so would its children


@pytest.mark.parametrize(
    ("values", "bars"), [([], ""), ([1.0], "▁"), ([0, 1, 2], "▁▅█"), ([0, 0, 1, 1], "▁▁██"), (list(range(40)), "▁")]
)
def test_sparklines(values: list[float], bars: str) -> None:
    line = sparkline(values)
    assert line.startswith(bars)
    assert len(line) == min(20, len(values))


def test_step_lines_name_parts_and_judges() -> None:
    row = {
        "step": 2,
        "reward/mean": 1.25,
        "reward/max": 3,
        "reward/resource/mean": 0.5,
        "judge/a": None,
        "time/rollout": 2,
    }
    assert step_line(row) == "step 2  reward 1.25  reward/resource/mean 0.5  judge/a -  rollouts s 2"


def test_a_thousand_runs_are_listed_within_a_second(tmp_path: Path) -> None:
    with Registry(tmp_path / "state.db") as registry, registry._database.writing() as connection:
        connection.executemany(
            "INSERT INTO jobs VALUES (?, 'rl', ?, 'SUCCEEDED', 't', 't', '', '', '', NULL, ?)",
            [(f"job_{at:016x}", f"run-{at}", json.dumps({"batch_rewards": [0.1] * 10})) for at in range(1000)],
        )

    def lists_them() -> None:
        done = subprocess.run(
            [sys.executable, "-m", "synth_ray.cli.main", "status", "jobs", "--json", "--limit", "1000"],
            capture_output=True,
            check=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "SYNTH_RAY_HOME": str(tmp_path)},
        )
        assert len(json.loads(done.stdout)["data"]) == 1000

    assert quickest(lists_them, 1.0) <= 1.0


def test_a_run_shows_the_label_of_its_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTH_RAY_HOME", str(tmp_path))
    RunDir.create(Home(tmp_path, tmp_path).runs, "labelled", {"model": {"label": "my-label"}})
    shown = CliRunner().invoke(cli, ["status", "runs", "get", "labelled"])
    assert ["label", "my-label"] in [line.split() for line in shown.stdout.splitlines()]
