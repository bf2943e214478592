from __future__ import annotations

import itertools
import re
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synth_ray.core.errors import ConfigError, ConflictError, CorruptError, NotFoundError
from synth_ray.records.model_ids import METHODS, ModelId, parse_model_id
from synth_ray.records.registry import Model, Registry, new_job_id
from synth_ray.records.states import NEXT, State, check_transition

MODEL = Model("fft:crafter-tiny:job_1", "crafter-tiny", "full", "/models/job_1", "d1", "job_1", metrics={"loss": 0.5})


def test_a_job_from_creation_to_success(tmp_path: Path) -> None:
    with Registry(tmp_path / "state.db") as registry:
        job = registry.create_job("rl", "my-run", "abc", "/runs/my-run")
        assert re.fullmatch(r"job_[0-9a-f]{16}", job.job_id)
        assert job.status is State.CREATED
        assert registry.job(job.job_id) == job
        registry.set_job_status(job.job_id, State.STARTING, submission_id="raysubmit_1")
        registry.set_job_status(job.job_id, State.RUNNING)
        done = registry.set_job_status(job.job_id, State.SUCCEEDED, result={"model": "m"})
        assert (done.status, done.result, done.submission_id) == (State.SUCCEEDED, {"model": "m"}, "raysubmit_1")
        assert registry.job(job.job_id) == done


def test_final_is_final(tmp_path: Path) -> None:
    with Registry(tmp_path / "state.db") as registry:
        for final in (State.SUCCEEDED, State.FAILED, State.CANCELLED):
            job = registry.create_job("rl", "run")
            registry.set_job_status(job.job_id, State.RUNNING)
            registry.set_job_status(job.job_id, final, error="why")
            for state in set(State) - {final}:
                with pytest.raises(ConflictError, match="cannot become") as caught:
                    registry.set_job_status(job.job_id, state)
                assert caught.value.exit_code == 5
            assert registry.job(job.job_id).status is final
            assert registry.job(job.job_id).error == "why"


def test_the_state_machine() -> None:
    for old, new in itertools.product(State, State):
        if old is new or new in NEXT[old]:
            check_transition("it", old, new)
        else:
            with pytest.raises(ConflictError):
                check_transition("it", old, new)
    assert {state for state in State if state.final} == {state for state in State if not NEXT[state]}
    reachable, front = {State.CREATED}, {State.CREATED}
    while front:
        front = {new for old in front for new in NEXT[old]} - reachable
        reachable |= front
    assert reachable == set(State)


def test_jobs_are_listed_newest_first(tmp_path: Path) -> None:
    with Registry(tmp_path / "state.db") as registry:
        ids = [registry.create_job(kind, f"n-{at}").job_id for at, kind in enumerate(["rl", "sft", "rl"])]
        assert [job.job_id for job in registry.jobs()] == ids[::-1]
        assert [job.job_id for job in registry.jobs(limit=2)] == [ids[2], ids[1]]
        assert [job.job_id for job in registry.jobs(type="rl")] == [ids[2], ids[0]]
        assert [job.job_id for job in registry.jobs(name="n-1")] == [ids[1]]
        assert registry.jobs(type="eval") == []


def test_unknown_ids_suggest_similar_ones(tmp_path: Path) -> None:
    with Registry(tmp_path / "state.db") as registry:
        registry.add_model(MODEL)
        registry.create_job("rl", "run", job_id="job_abcdef0123456789")
        with pytest.raises(NotFoundError) as caught:
            registry.model("fft:crafter-tyni:job_1")
        assert caught.value.hint == "did you mean fft:crafter-tiny:job_1?"
        with pytest.raises(NotFoundError) as caught:
            registry.model("fft:job_1")
        assert caught.value.hint == "did you mean fft:crafter-tiny:job_1?"
        assert caught.value.exit_code == 4
        with pytest.raises(NotFoundError, match="job_abcdef012345678x") as caught:
            registry.job("job_abcdef012345678x")
        assert "job_abcdef0123456789" in caught.value.hint
        with pytest.raises(NotFoundError) as caught:
            registry.set_job_status("zzz", State.RUNNING)
        assert caught.value.hint == "`synth-ray status jobs` lists them"


def test_a_repeated_submission_is_one_job(tmp_path: Path) -> None:
    found: list[str] = []

    def submit() -> None:
        with Registry(tmp_path / "state.db") as registry:
            found.append(registry.create_job("rl", "run", "abc", submission_id="s1").job_id)

    threads = [threading.Thread(target=submit) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 10
    assert len(set(found)) == 1
    with Registry(tmp_path / "state.db") as registry:
        assert len(registry.jobs()) == 1
        with pytest.raises(ConflictError):
            registry.create_job("rl", "run", "other config", submission_id="s1")
        other = registry.create_job("rl", "run", "abc")
        with pytest.raises(ConflictError):
            registry.create_job("rl", "run", "abc", job_id=other.job_id)
        with pytest.raises(ConflictError):
            registry.set_job_status(other.job_id, State.STARTING, submission_id="s1")
        assert registry.job(other.job_id).status is State.CREATED


def test_models_and_their_lineage(tmp_path: Path) -> None:
    with Registry(tmp_path / "state.db") as registry:
        adapter_id = str(ModelId("rl", MODEL.model_id, "job_2"))
        adapter = Model(adapter_id, MODEL.model_id, "adapter", "/a", "d2", "job_2", base_path="/models/job_1")
        child_id = str(ModelId("rl", adapter_id, "job_3"))
        child = Model(child_id, adapter_id, "adapter", "/b", "d3", "job_3", base_path="/models/job_1")
        stored = [registry.add_model(model) for model in (MODEL, adapter, child)]
        assert registry.model(MODEL.model_id) == replace(MODEL, created_at=stored[0].created_at)
        assert registry.models() == stored[::-1]
        assert registry.models(limit=1) == [stored[2]]
        assert registry.lineage(child_id) == stored[::-1]
        assert registry.lineage(child_id)[-1].base == "crafter-tiny"
        with pytest.raises(NotFoundError):
            registry.lineage("nobody")


def test_adding_a_model_again(tmp_path: Path) -> None:
    with Registry(tmp_path / "state.db") as registry:
        first = registry.add_model(MODEL)
        assert registry.add_model(MODEL) == first
        with pytest.raises(ConflictError):
            registry.add_model(replace(MODEL, digest="other"))
        assert registry.models() == [first]


def test_a_lineage_that_bites_its_tail_ends(tmp_path: Path) -> None:
    with Registry(tmp_path / "state.db") as registry:
        a, b = replace(MODEL, model_id="a", base="b"), replace(MODEL, model_id="b", base="a")
        registry.add_model(a)
        registry.add_model(b)
        assert [model.model_id for model in registry.lineage("a")] == ["a", "b"]


def test_a_damaged_value_is_corrupt(tmp_path: Path) -> None:
    with Registry(tmp_path / "state.db") as registry:
        registry.create_job("rl", "run")
        registry.add_model(MODEL)
    with sqlite3.connect(tmp_path / "state.db") as plain:
        plain.execute("UPDATE jobs SET status = 'CREATEX'")
        plain.execute("UPDATE models SET metrics = '{'")
    with Registry(tmp_path / "state.db", read_only=True) as registry:
        with pytest.raises(CorruptError, match=r"state\.db"):
            registry.jobs()
        with pytest.raises(CorruptError, match=r"state\.db"):
            registry.models()


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("fft:crafter-tiny:job_x", ModelId("fft", "crafter-tiny", "job_x")),
        ("peft:Qwen/Qwen3-4B:job_a53914f51dc146b5", ModelId("peft", "Qwen/Qwen3-4B", "job_a53914f51dc146b5")),
        ("rl:fft:Qwen/Qwen3-4B:job_1:job_2", ModelId("rl", "fft:Qwen/Qwen3-4B:job_1", "job_2")),
        ("rl:Qwen/Qwen3-4B:job_1:checkpoint-epoch-1", ModelId("rl", "Qwen/Qwen3-4B", "job_1", "checkpoint-epoch-1")),
        ("rl:rl:b:job_1:step_3:job_2:step_9", ModelId("rl", "rl:b:job_1:step_3", "job_2", "step_9")),
        ("fft:/models/my:model:job_1", ModelId("fft", "/models/my:model", "job_1")),
    ],
)
def test_model_ids_parse_and_print(text: str, parsed: ModelId) -> None:
    assert parse_model_id(text) == parsed
    assert str(parsed) == text


@pytest.mark.parametrize(
    "text", ["", "crafter-tiny", "fft:job_1", "fft::job_1", "abc:base:job_1", "fft:base:1", "fft:a b:job_1"]
)
def test_what_is_no_model_id_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_model_id(text)


bases = st.from_regex(r"[A-Za-z0-9./-]{1,8}(:[a-z]{1,4})?", fullmatch=True)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(METHODS), bases, st.lists(st.sampled_from(METHODS), max_size=2))
def test_any_chain_of_models_parses(method: str, base: str, more: list[str]) -> None:
    model_id = ModelId(method, base, new_job_id())
    for one in more:
        model_id = ModelId(one, str(model_id), new_job_id())
        assert parse_model_id(str(model_id)) == model_id
