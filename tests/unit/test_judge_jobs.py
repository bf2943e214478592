"""Judges in evaluations, in filters and in calibration: a real server, real databases, and the CLI."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from jobs.eval import _play, _result
from synth_ray.cli.main import cli
from synth_ray.core.config import validate
from synth_ray.core.errors import ConfigError, JobFailed, NotFoundError, PrerequisiteError
from synth_ray.core.judge_sections import JudgeOptions
from synth_ray.core.origins import ALLOWED_ORIGINS
from synth_ray.core.paths import Home
from synth_ray.core.sections import EvalConfig, RLConfig
from synth_ray.core.types import EpisodeSpec, Provenance, Reply, RewardParts, Rollout, StepFacts, StopReason, Turn
from synth_ray.records.filters import FilterConfig, filter_rollouts
from synth_ray.records.traces import TraceDB
from synth_ray.runtime.calibrate import calibrate
from synth_ray.runtime.judging import plan_judge, plan_rl_judge
from tests.unit.fake_provider import FakeProvider, Play, Sent, as_json, completion, fake_provider

RUBRIC = {"criteria": [{"id": "goal", "description": "How good?"}]}


def rollout(name: str, seed: int = 0, outcome: float = 1.0, **changes: Any) -> Rollout:
    turns = (Turn(0, (), Reply(f"outcome {outcome}"), StepFacts(("do",)), RewardParts(), 0.0, 0.0),)
    base = Rollout(name, "run", "crafter", seed, "m", Provenance.ENGINE, turns, outcome, (), StopReason.TURNS, "", 1.0)
    return replace(base, **changes)


def honest(sent: Sent) -> Play:
    """Scores what the player says that it is worth."""
    said = sent.body["messages"][1]["content"].partition("outcome ")[2].partition('"')[0]
    value = {"outcome_review": {"criteria": {"goal": {"score": float(said) / 10, "reason": "so it says"}}}}
    return as_json(completion({"content": json.dumps(value)}))


@pytest.fixture
def server() -> Iterator[FakeProvider]:
    with fake_provider() as one:
        one.default = honest
        yield one


@pytest.fixture
def home(tmp_path: Path, server: FakeProvider) -> Home:
    (tmp_path / ".env").write_text(f"{ALLOWED_ORIGINS}={server.origin}\n")
    return Home(tmp_path / "state", tmp_path)


def judge(server: FakeProvider, **changes: Any) -> dict[str, Any]:
    own = {"outcome": RUBRIC}
    return {"provider": server.origin, "model": "j", "rubric_overrides": own, "attempts": 1, **changes}


def evaluation(home: Home, judges: dict[str, Any]) -> Any:
    values = {"model": "m", "provider": "expert", "seeds": "0-4", "trace_db": "t.db", **judges}
    config = validate(EvalConfig, {"eval": values})
    env_file = str(home.project / ".env")
    return SimpleNamespace(
        config=config, job_id="job_1", name="job_1", resume=False, home=home, env_file=env_file, report=lambda *_: None
    )


class Handle:
    """A task app whose rollouts are worth their seed; seed 4 breaks."""

    def __init__(self) -> None:
        self.play = SimpleNamespace(remote=self._play)

    async def _play(self, spec: EpisodeSpec) -> Rollout:
        broken = {"stop_reason": StopReason.ERROR, "error": "lost"} if spec.seed == 4 else {}
        return rollout(spec.rollout_id, spec.seed, float(spec.seed), **broken)


def evaluated(job: Any, handle: Handle | None = None) -> Any:
    plans = {one.name: plan_judge(one, None, job.env_file, job.home) for one in job.config.eval.judges}
    return _result(job, *_play(job, handle or Handle(), None, plans))


def metadata(path: Path) -> dict[int, Any]:
    with TraceDB(path, read_only=True) as traces:
        return {one.seed: one.metadata for one in traces.sessions()}


def test_an_evaluation_stores_scores_and_says_how_they_agree(server: FakeProvider, home: Home) -> None:
    result = evaluated(evaluation(home, {"judge": judge(server)}))
    report = result["judges"]["judge"]
    assert (report["n"], report["reviews"], report["failed"]) == (4, 4, 0)
    assert report["mean_score"] == pytest.approx(0.15)
    assert report["pearson"] == pytest.approx(1.0)
    assert (report["auc"], result["mean"]) == (1.0, 1.5)
    json.dumps(result, allow_nan=False)
    stored = metadata(home.project / "t.db")
    assert stored[3]["judge_scores"] == {"judge": 0.3}
    assert stored[3]["judge_reviews"]["judge"]["outcome_review"]["criteria"]["goal"]["reason"] == "so it says"
    assert (stored[3]["split"], "judge_scores" in stored[4]) == ("train", False), "a broken rollout is not judged"


class Counting(Handle):
    """Says which seeds it has played."""

    def __init__(self) -> None:
        super().__init__()
        self.seeds: set[int] = set()

    async def _play(self, spec: EpisodeSpec) -> Rollout:
        self.seeds.add(spec.seed)
        return replace(await super()._play(spec), run_id=spec.run_id, group=spec.group)


def resumed(job: Any) -> tuple[Any, set[int], dict[int, Any]]:
    """The result of a further attempt, which seeds it played, and the metadata of the rollouts that count."""
    handle, again = Counting(), SimpleNamespace(**{**vars(job), "job_id": "job_2", "resume": True})
    result = evaluated(again, handle)
    with TraceDB(job.home.project / "t.db", read_only=True) as traces:
        found = {one.seed: one.metadata for one in traces.sessions() if one.stop_reason.regular}
    return result, handle.seeds, found


def test_a_resumed_evaluation_knows_what_the_judges_have_said(server: FakeProvider, home: Home) -> None:
    job = evaluation(home, {"judge": judge(server, cache=False)})
    before = evaluated(job, Counting())["judges"]
    asked, stored_before = len(server.requests), metadata(home.project / "t.db")
    result, seeds, found = resumed(job)
    assert (seeds, len(server.requests)) == ({4}, asked)
    assert result["judges"] == before
    assert found[3] == stored_before[3]


def test_what_was_stopped_before_it_was_judged_is_judged_on_resume(server: FakeProvider, home: Home) -> None:
    named = {"mild": judge(server, model="a"), "strict": judge(server, model="b")}
    job = evaluation(home, {"judge": named})
    plays = {"a": honest, "b": Play(hang=True)}
    server.default = lambda sent: answer(sent) if callable(answer := plays[sent.body["model"]]) else answer

    class Stopping(Counting):
        async def _play(self, spec: EpisodeSpec) -> Rollout:
            if spec.seed == 3:
                await asyncio.sleep(0.5)
                raise KeyboardInterrupt
            return await super()._play(spec)

    with pytest.raises(KeyboardInterrupt):
        evaluated(job, Stopping())
    assert "judge_scores" not in metadata(home.project / "t.db")[0]
    server.default = honest
    result, seeds, found = resumed(job)
    assert seeds == {3, 4}
    assert {name: (one["n"], one["reviews"]) for name, one in result["judges"].items()} == {
        "mild": (4, 4),
        "strict": (4, 4),
    }
    assert [found[seed]["judge_scores"] for seed in (0, 2)] == [
        {"mild": 0.0, "strict": 0.0},
        {"mild": 0.2, "strict": 0.2},
    ]
    assert found[2]["judge_reviews"]["strict"]["outcome_review"]["total"] == 0.2
    assert (found[2]["job_id"], found[2]["split"]) == ("job_1", "train")


def test_a_review_that_failed_is_asked_for_again_on_resume(server: FakeProvider, home: Home) -> None:
    named = {"mild": judge(server, model="a", cache=False), "strict": judge(server, model="b", cache=False)}
    job = evaluation(home, {"judge": named})
    server.default = lambda sent: honest(sent) if sent.body["model"] == "a" else Play(500)
    evaluated(job, Counting())
    assert metadata(home.project / "t.db")[2]["judge_scores"] == {"mild": 0.2, "strict": None}
    server.default, before = honest, len(server.requests)
    result, _, found = resumed(job)
    assert [sent.body["model"] for sent in server.requests[before:]] == ["b"] * 4
    assert (result["judges"]["strict"]["n"], result["judges"]["strict"]["failed"]) == (4, 0)
    assert found[2]["judge_scores"] == {"mild": 0.2, "strict": 0.2}


def test_an_outage_is_a_count_and_no_score_of_zero(server: FakeProvider, home: Home) -> None:
    server.default = Play(500)
    result = evaluated(evaluation(home, {"judge": judge(server, cache=False)}))
    report = result["judges"]["judge"]
    assert (report["n"], report["failed"], report["failures"], report["mean_score"]) == (0, 4, {"unavailable": 4}, None)
    assert "500" in report["first_failure"]
    assert result["mean"] == 1.5
    assert metadata(home.project / "t.db")[3]["judge_scores"] == {"judge": None}


def test_several_judges_each_under_its_name(server: FakeProvider, home: Home) -> None:
    named = {"strict": judge(server, model="a"), "mild": judge(server, model="b")}
    result = evaluated(evaluation(home, {"judge": named}))
    assert sorted(result["judges"]) == ["mild", "strict"]
    assert metadata(home.project / "t.db")[2]["judge_scores"] == {"strict": 0.2, "mild": 0.2}
    listed = evaluation(home, {"judges": [judge(server, name="x"), judge(server, name="y")]})
    assert [one.name for one in listed.config.eval.judges] == ["x", "y"]
    with pytest.raises(ConfigError, match="same name"):
        evaluation(home, {"judges": [judge(server), judge(server)]})
    with pytest.raises(ConfigError, match=r"unknown key 'eval\.judges\.callable'"):
        evaluation(home, {"judge": judge(server, callable="f")})


def test_a_stopped_evaluation_keeps_what_was_played(server: FakeProvider, home: Home) -> None:
    server.default = Play(hang=True)
    job = evaluation(home, {"judge": judge(server)})
    plans = {one.name: plan_judge(one, None, job.env_file, job.home) for one in job.config.eval.judges}

    class Stopping(Handle):
        async def _play(self, spec: EpisodeSpec) -> Rollout:
            if spec.seed == 3:
                await asyncio.sleep(0.3)
                raise KeyboardInterrupt
            return await super()._play(spec)

    with pytest.raises(KeyboardInterrupt):
        _play(job, Stopping(), None, plans)
    stored = metadata(home.project / "t.db")
    assert {0, 1, 2} <= set(stored)
    assert "judge_scores" not in stored[0]


@pytest.mark.parametrize(
    ("rules", "kept", "dropped"),
    [
        ({"min_judge_scores": {"j": 0.5}}, ["b", "c"], {"min_judge_scores": 3}),
        ({"max_judge_scores": {"j": 0.5}}, ["a", "b"], {"max_judge_scores": 3}),
        ({"min_judge_scores": {"j": 0.5}, "max_judge_scores": {"j": 0.5}}, ["b"],
         {"min_judge_scores": 3, "max_judge_scores": 1}),
    ],
)  # fmt: skip
def test_a_filter_by_judge_scores_wants_a_score(rules: Any, kept: list[str], dropped: Any) -> None:
    about = {"a": {"judge_scores": {"j": 0.1}}, "b": {"judge_scores": {"j": 0.5}}, "c": {"judge_scores": {"j": 1}},
             "d": {"judge_scores": {"j": None}}}  # fmt: skip
    config = FilterConfig(db=Path("t.db"), output=Path("o"), **rules)
    result = filter_rollouts([rollout(name) for name in "abcde"], config, about)
    assert [line["metadata"]["rollout_id"] for line in result.examples] == kept
    assert result.report.dropped == dropped


def test_bounds_that_exclude_each_other() -> None:
    with pytest.raises(ValueError, match=r"min_judge_scores\.j is above"):
        FilterConfig(db=Path("t"), output=Path("o"), min_judge_scores={"j": 1.0}, max_judge_scores={"j": 0.5})


def stored(home: Home, outcomes: list[float]) -> None:
    with TraceDB(home.project / "t.db") as traces:
        traces.add([rollout(f"r{at}", at, one) for at, one in enumerate(outcomes)])
        traces.add([rollout("broken", 99, stop_reason=StopReason.ERROR, error="x")])


def calibration_file(home: Home, server: FakeProvider, **changes: Any) -> Path:
    lines = ["[calibrate]", 'trace_db = "t.db"', "[judge]"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in judge(server, **changes).items() if key[0] != "r"]
    lines += ["[[judge.rubric_overrides.outcome.criteria]]", 'id = "goal"', 'description = "How good?"']
    path = home.project / "judge.toml"
    path.write_text("\n".join(lines))
    return path


def test_calibration_over_stored_rollouts(server: FakeProvider, home: Home) -> None:
    stored(home, [0, 1, 2, 9])
    config = calibration_file(home, server)
    report = calibrate([config], [], home, home.project / ".env")
    assert (report["n"], report["reviews"], report["cached"]) == (4, 4, 0)
    assert (report["pearson"], report["spearman"], report["auc"]) == (pytest.approx(1.0), pytest.approx(1.0), 1.0)
    assert [one["n"] for one in report["bins"]] == [2, 1, 0, 0, 1]
    again = calibrate([config], ["calibrate.limit=2"], home, home.project / ".env")
    assert (again["n"], again["cached"], len(server.requests)) == (2, 2, 4)


def test_calibration_that_can_say_nothing(server: FakeProvider, home: Home) -> None:
    stored(home, [1.0])
    config, env_file = calibration_file(home, server), home.project / ".env"
    with pytest.raises(NotFoundError, match="no finished rollout"):
        calibrate([config], ['calibrate.models=["other"]'], home, env_file)
    server.default = Play(500)
    with pytest.raises(JobFailed, match="all 1 reviews failed"):
        calibrate([config], [], home, env_file)
    env_file.write_text("")
    with pytest.raises(ConfigError, match="no allowed inference origin"):
        calibrate([config], [], home, env_file)


def test_the_verb(server: FakeProvider, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(home, [0, 1, 9])
    monkeypatch.setenv("SYNTH_RAY_HOME", str(home.project))
    config = calibration_file(home, server)
    shown = ["judge", "calibrate", "-c", str(config), "--env-file", str(home.project / ".env")]
    told = CliRunner().invoke(cli, [*shown, "--trace-db", str(home.project / "t.db"), "--limit", "3"])
    assert told.exit_code == 0, told.output
    assert "0.80 - 1.00" in told.output and "Spearman 1.000" in told.output
    as_json_text = CliRunner().invoke(cli, [*shown, "--json"]).stdout
    assert json.loads(as_json_text)["data"]["cached"] == 3
    unknown = CliRunner().invoke(cli, [*shown, "--rubric", "nope"])
    assert isinstance(unknown.exception, NotFoundError)


def rl(server: FakeProvider, **changes: Any) -> RLConfig:
    options = {"provider": server.origin, "model": "j"}
    section = {
        "enabled": True,
        "options": options,
        "reward_blend": {"env": 1, "outcome": 1},
        **changes.pop("judge", {}),
    }
    return validate(RLConfig, {"model": {"base": "m"}, "judge": section, **changes})


def test_an_rl_run_with_a_judge_that_cannot_start_ends_before_it_begins(server: FakeProvider, home: Home) -> None:
    env_file = str(home.project / ".env")
    plan = plan_rl_judge(rl(server, rubric={"inline": RUBRIC}), env_file, home)
    assert plan is not None and plan.rubrics.outcome is not None
    assert plan_rl_judge(validate(RLConfig, {"model": {"base": "m"}}), env_file, home) is None
    with pytest.raises(ConfigError, match="nothing to score"):
        plan_rl_judge(rl(server), env_file, home)
    with pytest.raises(ConfigError, match="sum to"):
        plan_rl_judge(rl(server, rubric={"inline": RUBRIC | {"version": "1", "goal_text": "g", "criteria": [
            {**RUBRIC["criteria"][0], "weight": 0.5}]}, "strict": True}), env_file, home)  # fmt: skip
    with pytest.raises(ConfigError, match="gives no event scores"):
        plan_rl_judge(
            rl(server, rubric={"inline": RUBRIC}, judge={"reward_blend": {"env": 1, "event": 0.1}}), env_file, home
        )
    with pytest.raises(PrerequisiteError, match="OPENAI_API_KEY"):
        plan_judge(JudgeOptions(provider="openai", model="j", rubric_id="crafter"), None, env_file, home)
