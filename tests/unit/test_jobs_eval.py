"""What an eval config asks the task app to play, and when its rollouts are written."""

import asyncio
import json
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

import jobs.eval
from envs.crafter.task import CrafterTask
from jobs import runner
from jobs.eval import _result, _specs, _Written
from synth_ray.cli import verbs
from synth_ray.cli.main import cli
from synth_ray.core.config import validate
from synth_ray.core.errors import ConflictError, JobFailed
from synth_ray.core.paths import Home
from synth_ray.core.sections import EvalConfig
from synth_ray.core.types import (
    Message,
    Provenance,
    Reply,
    RewardParts,
    RewardSpec,
    Rollout,
    StepFacts,
    StopReason,
    Turn,
)
from synth_ray.records.job_files import JobFiles
from synth_ray.records.traces import Added, TraceDB
from synth_ray.rollout.remote.request import offered_tools


def specs(env_config: dict[str, Any]) -> Any:
    section = {"model": "expert", "provider": "expert", "seeds": "3", "env_config": env_config}
    job: Any = SimpleNamespace(
        config=validate(EvalConfig, {"eval": section}), job_id="job_1", name="job_1", resume=False
    )
    (spec,) = _specs(job, None)
    return spec


def test_step_rewards_reach_the_ledger_and_not_the_world() -> None:
    block = {"enabled": True, "mode": "decision_stepwise", "strategy": "complex", "indicator_lambda": 0.5}
    spec = specs({"renderer": "compact", "step_rewards": block})
    assert spec.rewards == RewardSpec("per_achievement", 0.5)
    assert spec.env_config == {"renderer": "compact"}
    assert specs({}).rewards == RewardSpec("outcome")


def test_what_a_remote_model_is_offered_goes_into_the_trace() -> None:
    def offered(**settings: Any) -> Mapping[str, Any]:
        section = {"model": "m", "provider": "groq", "seeds": "3", **settings}
        job: Any = SimpleNamespace(
            config=validate(EvalConfig, {"eval": section}), job_id="job_1", name="job_1", resume=False
        )
        (spec,) = _specs(job, None)
        return offered_tools(spec, CrafterTask())

    env_config = {"max_actions_per_turn": 3}
    assert offered(env_config=env_config) == {"tools": CrafterTask().tools(env_config)}
    assert offered(policy_config={"body": {"use_tools": False}}) == {}
    assert offered(model="expert", provider="expert") == {}


TURN = Turn(0, (Message("user", "see"),), Reply("go"), StepFacts(("do",)), RewardParts(), 1.0, 1.0)


def played(seed: int, error: str | None) -> Rollout:
    stop = StopReason.ERROR if error else StopReason.DONE
    return Rollout(
        f"r{seed}", "job_1", "grpo-crafter", seed, "expert", Provenance.EXPERT, (), 1.0, ("collect_wood",), stop, "",
        1.0, error=error,
    )  # fmt: skip


def job_of(tmp_path: Path) -> Any:
    config = validate(EvalConfig, {"eval": {"model": "expert", "provider": "expert", "seeds": "0-9"}})
    home = SimpleNamespace(project=tmp_path, serve_lock=tmp_path / "lock")
    return SimpleNamespace(
        config=config, job_id="job_1", name="job_1", resume=False, home=home, env_file="", http_port=1, report=print
    )


def test_failed_rollouts_are_told_after_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTH_RAY_HOME", str(tmp_path))

    def told(*errors: str | None) -> tuple[str, str]:
        found = _result(job_of(tmp_path), [played(seed, error) for seed, error in enumerate(errors)])
        monkeypatch.setattr(verbs, "client", lambda *_: None)
        monkeypatch.setattr(verbs, "run", lambda *_, **__: {"job_id": "job_2", **found})
        arguments = ["eval", "--model", "expert", "--seeds", "0-9", "--set", "eval.provider=expert"]
        done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        assert done.exit_code == 0
        return done.stdout, done.stderr

    table, notices = told(*["turn 0: no key\x1b[1m"] * 8, None, None)
    assert table.splitlines()[-1].split()[4] == "2"
    assert "8 of 10 rollouts failed; first: turn 0: no key" in notices
    assert "again: synth-ray eval --resume job_2\n" in notices
    assert "\x1b" not in notices
    assert "rollouts failed" not in told(None, None)[1]


@pytest.mark.parametrize("home", ["", "home"])
def test_an_evaluation_writes_where_a_filter_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SYNTH_RAY_HOME", raising=False)
    if home:
        monkeypatch.setenv("SYNTH_RAY_HOME", str(tmp_path / home))
    arguments = ["--model", "expert", "--seeds", "0", "--trace-db", "traces/mine.db", "--dry-run"]
    done = CliRunner().invoke(cli, ["eval", *arguments], catch_exceptions=False)
    trace_db = Path(json.loads(done.stdout)["config"]["eval"]["trace_db"])
    assert trace_db == tmp_path / home / "traces" / "mine.db"
    with TraceDB(trace_db) as traces:
        traces.add([replace(played(0, None), turns=(TURN,))])
    given = ["--set", "filter.db=traces/mine.db", "--set", "filter.output=o.jsonl"]
    assert CliRunner().invoke(cli, ["filter", *given]).exit_code == 0
    assert (tmp_path / home / "o.jsonl").exists()
    listed = CliRunner().invoke(cli, ["traces", "list", "--trace-db", "traces/mine.db"])
    assert f"1 rollouts of {trace_db}" in listed.stderr


def test_an_evaluation_without_any_finished_rollout_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.eval, "app", SimpleNamespace(
        start_serve=print, task=lambda *_: SimpleNamespace(name="x"), ensure=print, wait_ready=print, handle=print
    ))  # fmt: skip
    monkeypatch.setattr(jobs.eval, "_play", lambda *_: ([played(0, "no key"), played(1, "late")], {}))
    with pytest.raises(JobFailed, match="all 2 rollouts failed; the first: no key"):
        jobs.eval.work(job_of(tmp_path))


def test_an_evaluation_does_not_go_on_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.eval, "app", SimpleNamespace(
        start_serve=print, task=lambda *_: SimpleNamespace(name="x"), ensure=print, wait_ready=print, handle=print
    ))  # fmt: skip
    monkeypatch.setattr(jobs.eval, "_play", lambda *_: ([played(0, None)], {}))
    monkeypatch.setattr(runner, "connect", print)
    monkeypatch.setattr(runner, "_handle_signals", lambda: None)

    def attempt(job_id: str, project: Path, trace_db: str, resumed: str = "") -> int:
        sets = [f"--set=eval.{key}='{value}'" for key, value in {"model": "expert", "provider": "expert"}.items()]
        sets += ["--set=eval.seeds='0-9'", f"--set=eval.trace_db='{trace_db}'"]
        arguments = runner._parser("eval").parse_args(
            [*sets, *(["--resume", "--run-name", resumed] if resumed else [])]
        )
        home = Home(tmp_path / "state", project)
        return runner._run("eval", EvalConfig, jobs.eval.work, arguments, home, job_id, JobFiles(home.jobs / job_id))

    began_in, other = tmp_path / "its own", tmp_path / "other"
    assert attempt("job_1", began_in, "t.db") == attempt("job_2", began_in, "t.db", "job_1") == 0
    with pytest.raises(ConflictError, match=r"keeps its rollouts in .*/its own/t\.db, not in .*/other/t\.db") as caught:
        attempt("job_3", other, "t.db", "job_1")
    assert caught.value.hint.endswith(f"cd '{began_in}' && synth-ray eval --resume job_1")
    absolute = str(tmp_path / "t.db")
    assert attempt("job_4", began_in, absolute) == attempt("job_5", other, absolute, "job_4") == 0


class SlowTraces(TraceDB):
    """Says when it writes, and goes on when it may."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.begun, self.may = threading.Event(), threading.Event()
        self.written: list[list[str]] = []

    def add(self, rollouts: Any, metadata: Any = None, own: Any = None) -> Added:
        self.written.append([one.rollout_id for one in rollouts])
        self.begun.set()
        assert self.may.wait(10)
        return super().add(rollouts, metadata, own)


def test_what_is_said_to_be_done_is_on_the_disk_and_a_moment_shares_a_write(tmp_path: Path) -> None:
    said: list[tuple[int, int]] = []
    with SlowTraces(tmp_path / "t.db") as traces:
        written = _Written(traces, {"split": "test"}, lambda done: said.append((done, traces.count())))

        async def end(name: str) -> None:
            written.played(rollout(name))
            await written.judged(rollout(name), {"own": name})

        async def main() -> None:
            ends = [asyncio.ensure_future(end(name)) for name in "abc"]
            assert await asyncio.to_thread(traces.begun.wait, 10)
            assert said == []
            ends += [asyncio.ensure_future(end(name)) for name in "de"]
            traces.may.set()
            await asyncio.gather(*ends)

        asyncio.run(main())
        written.played(rollout("unjudged"))
        written.everything()
        assert traces.written == [["a", "b", "c"], ["d", "e"], ["unjudged"]]
        assert said == [(3, 3), (5, 5)]
        stored = {one.rollout_id: one.metadata for one in traces.sessions()}
    assert stored["b"] == {"split": "test", "own": "b"}
    assert stored["unjudged"] == {"split": "test"}


def rollout(name: str) -> Rollout:
    return Rollout(name, "job_1", "crafter", 1, "m", Provenance.EXPERT, (), 1.0, (), StopReason.TURNS, "", 1.0)
