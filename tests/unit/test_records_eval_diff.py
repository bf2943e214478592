"""Evaluation differences: pairing, the bootstrap against a direct one, and evaluations that go on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synth_ray.core.errors import ConflictError, NotFoundError
from synth_ray.core.types import Provenance, Rollout, StopReason
from synth_ray.records.eval_diff import _bootstrap, eval_diff
from synth_ray.records.eval_resume import check_same, finished
from synth_ray.records.job_files import JobFiles
from synth_ray.records.run_record import write_config
from synth_ray.records.sessions import Session
from synth_ray.records.traces import TraceDB


def session(seed: int, outcome: float, *achievements: str, stop: StopReason = StopReason.TURNS) -> Session:
    return Session(
        f"r{seed}", "run", "crafter", seed, "m", Provenance.ENGINE, outcome, achievements, stop,
        "", 1.0, 1, 0, -1, 0, 0, None,
    )  # fmt: skip


def test_only_common_scored_seeds_count() -> None:
    a = [session(0, 1.0, "wood"), session(1, 2.0), session(2, 9.0), session(3, 5.0, stop=StopReason.ERROR)]
    b = [session(0, 2.0, "wood", "stone"), session(1, 2.0), session(3, 0.0), session(4, 7.0)]
    found = eval_diff(a, b, resamples=200)
    assert (found.score.a, found.score.b, found.score.difference) == (1.5, 2.0, 0.5)
    assert (found.n_common, found.better, found.worse, found.equal) == (2, 1, 0, 1)
    assert (found.only_a, found.only_b) == (1, 2)
    assert [(one.name, one.a, one.b) for one in found.achievements] == [("stone", 0.0, 0.5), ("wood", 0.5, 0.5)]
    assert not found.score.clear
    with pytest.raises(NotFoundError, match="no scored seed in common"):
        eval_diff(a, [session(9, 1.0)])


@pytest.mark.parametrize("stop", [StopReason.DEADLINE, StopReason.ERROR, StopReason.CANCELLED])
def test_an_attempt_that_was_cut_off_does_not_count_beside_the_one_that_was_played_again(stop: StopReason) -> None:
    found = eval_diff([session(0, 5.0)], [session(0, 1.0, "wood", stop=stop), session(0, 5.0)])
    assert (found.score.b, found.equal, found.achievements) == (5.0, 1, ())
    with pytest.raises(NotFoundError, match="no scored seed in common"):
        eval_diff([session(0, 5.0)], [session(0, 1.0, stop=stop)])


def test_episodes_of_one_seed_count_as_their_mean() -> None:
    found = eval_diff([session(0, 1.0), session(0, 3.0, "wood")], [session(0, 5.0, "wood")])
    assert found.score.difference == 3.0
    assert found.achievements[0].a == 0.5


outcomes = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(outcomes, st.integers(0, 3))
def test_intervals_hold_the_mean_mirror_each_other_and_repeat(pairs: list[tuple[int, int]], seed: int) -> None:
    a = [session(at, float(one)) for at, (one, _) in enumerate(pairs)]
    b = [session(at, float(two)) for at, (_, two) in enumerate(pairs)]
    there, back = eval_diff(a, b, 400, seed).score, eval_diff(b, a, 400, seed).score
    assert there == eval_diff(a, b, 400, seed).score
    differences = [two - one for one, two in pairs]
    assert min(differences) - 1e-9 <= there.low <= there.high <= max(differences) + 1e-9
    assert there.difference == pytest.approx(sum(differences) / len(pairs))
    assert (back.difference, back.low, back.high) == pytest.approx((-there.difference, -there.high, -there.low))
    shifted = [replace(one, outcome=one.outcome + 2) for one in b]
    assert eval_diff(a, shifted, 400, seed).score.low == pytest.approx(there.low + 2)
    if len(set(differences)) == 1:
        assert there.low == pytest.approx(there.high)


def test_the_bootstrap_agrees_with_a_direct_one() -> None:
    generator = np.random.default_rng(1)
    values = generator.normal(0.3, 1.0, (80, 2))
    low, high = _bootstrap(values, 20_000, seed=0)
    means = np.array([values[generator.integers(0, 80, 80)].mean(axis=0) for _ in range(20_000)])
    expected = np.quantile(means, [0.025, 0.975], axis=0)
    assert np.abs(np.array([low, high]) - expected).max() < 0.01


def test_a_clear_difference_is_seen() -> None:
    a = [session(seed, float(seed % 3)) for seed in range(60)]
    b = [session(seed, float(seed % 3 + (seed % 2))) for seed in range(60)]
    assert eval_diff(a, b).score.clear


def rollout(rollout_id: str, group: int, seed: int, stop: StopReason = StopReason.TURNS, run: str = "job_a") -> Rollout:
    return Rollout(
        rollout_id, run, "crafter", seed, "m", Provenance.ENGINE, (), 1.0, (), stop, "", 1.0, group=group
    )  # fmt: skip


def test_finished_rollouts_stand_and_others_are_played_again(tmp_path: Path) -> None:
    with TraceDB(tmp_path / "t.db") as traces:
        traces.add([rollout("a", 0, 10), rollout("b", 1, 11, StopReason.ERROR), rollout("c", 2, 12, run="job_b")])
        traces.add([rollout("d", 3, 99), rollout("e", 7, 10)])
        assert sorted(finished(traces, "job_a", [10, 11, 12, 13])) == [0]
        traces.add([rollout("f", 1, 11)])  # played again, under another id
        assert sorted(finished(traces, "job_a", [10, 11, 12, 13])) == [0, 1]


def test_only_the_same_evaluation_goes_on(tmp_path: Path) -> None:
    config = {"eval": {"model": "m", "seeds": [1, 2], "concurrency": 4}, "vllm": {"max_num_seqs": 8}}
    with pytest.raises(NotFoundError, match="left no configuration"):
        check_same(tmp_path, "job_a", config)
    write_config(JobFiles(tmp_path / "job_a").config_path, config, {})
    check_same(tmp_path, "job_a", config)
    faster = {"eval": {"model": "m", "seeds": [1, 2], "concurrency": 64}, "vllm": {"max_num_seqs": 64}}
    check_same(tmp_path, "job_a", faster)
    for change in ({"rollout_timeout_s": 9}, {"turn_timeout_s": 9}, {"policy_config": {"request_timeout_s": 9}}):
        check_same(tmp_path, "job_a", {**config, "eval": {**config["eval"], **change}})
    with pytest.raises(ConflictError, match=r"eval\.model, eval\.seeds") as caught:
        check_same(tmp_path, "job_a", {**config, "eval": {"model": "n", "seeds": [1], "concurrency": 4}})
    assert caught.value.exit_code == 5


def test_judges_are_the_same_whatever_their_time_limits(tmp_path: Path) -> None:
    def config(**judge: Any) -> dict[str, Any]:
        judges = [{"name": "mild", "model": "a"}, {"name": "strict", "model": "b", "timeout_s": 60.0, **judge}]
        return {"eval": {"model": "m", "judges": judges}}

    write_config(JobFiles(tmp_path / "job_a").config_path, config(), {})
    check_same(tmp_path, "job_a", config(timeout_s=9.0, max_seconds=9.0, max_concurrency=9))
    with pytest.raises(ConflictError, match=r"differ: eval\.judges\.strict\.model$"):
        check_same(tmp_path, "job_a", config(model="c", timeout_s=9.0))
    with pytest.raises(ConflictError, match=r"eval\.judges\.other\."):
        check_same(tmp_path, "job_a", config(name="other"))
