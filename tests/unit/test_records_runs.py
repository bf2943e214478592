from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synth_ray.core.errors import ConfigError, ConflictError, CorruptError, NotFoundError, StorageError
from synth_ray.core.paths import safe_name
from synth_ray.records.runs import RunDir, State, config_sha256, differing_keys, run_names, unique_name

CONFIG: dict[str, Any] = {"training": {"learning_rate": 0.001, "steps": 10}, "seeds": [1, 2]}


def test_a_new_run_has_everything(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "mine", CONFIG, {"seeds": "rl.toml"}, {"type": "rl"})
    names = {path.name for path in run.path.iterdir()}
    assert names == {"run.json", "config.resolved.json", "logs", "rollouts", "checkpoints"}
    record = run.record()
    assert (record.name, record.state, record.config_sha256) == ("mine", State.CREATED, config_sha256(CONFIG))
    assert (record.about, record.attempts, record.error) == ({"type": "rl"}, (), None)
    assert run.config() == CONFIG
    assert '"seeds": "rl.toml"' in (run.path / "config.resolved.json").read_text()
    assert RunDir.load(tmp_path, "mine").record() == record
    assert run_names(tmp_path) == ["mine"]


def test_a_name_in_use_is_refused(tmp_path: Path) -> None:
    first = RunDir.create(tmp_path, "mine", CONFIG).record()
    for config, which in ((CONFIG, "this"), ({**CONFIG, "seeds": [3]}, "another")):
        with pytest.raises(ConflictError, match=f"{which} configuration") as caught:
            RunDir.create(tmp_path, "mine", config)
        assert caught.value.exit_code == 5
        assert "--run-name" in caught.value.hint
        assert "--run-name" in caught.value.hint
    assert RunDir.load(tmp_path, "mine").record() == first
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_folders_of_others_are_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "file").write_text("x")
    with pytest.raises(ConflictError):
        RunDir.create(tmp_path, "theirs", CONFIG)
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "A", ".hidden", "x" * 65])
def test_unusable_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        RunDir.create(tmp_path, name, CONFIG)
    with pytest.raises(ConfigError):
        RunDir.load(tmp_path, name)


def test_resuming_needs_the_same_configuration(tmp_path: Path) -> None:
    RunDir.create(tmp_path, "mine", CONFIG)
    same = {"seeds": (1, 2), "training": {"steps": 10, "learning_rate": 0.001}}
    assert RunDir.resume(tmp_path, "mine", same).name == "mine"
    with pytest.raises(ConflictError) as caught:
        RunDir.resume(tmp_path, "mine", {"training": {"learning_rate": 0.1, "steps": 10}, "seeds": [1, 2], "new": 1})
    assert caught.value.details["keys"] == ["new", "training.learning_rate"]
    with pytest.raises(NotFoundError) as missing:
        RunDir.resume(tmp_path, "other", CONFIG)
    assert "mine" in missing.value.hint


def test_states_and_attempts(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "mine", CONFIG)
    assert run.start_attempt("ray_1").number == 1
    run.set_state(State.RUNNING)
    with pytest.raises(ConflictError):
        run.set_state(State.CREATED)
    assert run.start_attempt().number == 2  # the first was killed and could not say so
    run.set_state(State.RUNNING)
    run.set_state(State.FAILED, "disk gone")
    assert run.record().error == "disk gone"
    assert run.start_attempt().number == 3
    run.set_state(State.RUNNING)
    record = run.set_state(State.SUCCEEDED)
    assert RunDir.load(tmp_path, "mine").record() == record
    assert [one.state for one in record.attempts] == [State.FAILED, State.FAILED, State.SUCCEEDED]
    assert record.attempts[0].ray_job_id == "ray_1"
    assert record.error is None
    assert (run.logs / "latest").resolve().name == "attempt_3"
    with pytest.raises(ConflictError, match="succeeded"):
        run.start_attempt()


@pytest.mark.parametrize("name", ["run.json", "config.resolved.json"])
@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"{}", b"\xff"])
def test_damaged_files_are_named(tmp_path: Path, name: str, damage: bytes) -> None:
    run = RunDir.create(tmp_path, "mine", CONFIG)
    (run.path / name).write_bytes(damage)
    with pytest.raises(CorruptError, match=name) as caught:
        RunDir.load(tmp_path, "mine")
    assert caught.value.exit_code == 7


def test_an_edited_configuration_does_not_verify(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "mine", CONFIG)
    path = run.path / "config.resolved.json"
    path.write_text(path.read_text().replace("0.001", "0.002"))
    with pytest.raises(CorruptError, match=r"config\.resolved"):
        run.config()


def test_a_full_disk_leaves_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError):
        RunDir.create(tmp_path, "mine", CONFIG)
    assert list(tmp_path.iterdir()) == []


RACER = """
import sys, time
from contextlib import nullcontext
from pathlib import Path
from synth_ray.core.errors import ConflictError
from synth_ray.records.runs import RunDir
Path(sys.argv[1], f".ready-{sys.argv[2]}").touch()
deadline = time.monotonic() + 60
while len(list(Path(sys.argv[1]).glob(".ready-*"))) < 2:
    assert time.monotonic() < deadline, "the other process is gone"
for at in range(40):
    try:
        RunDir.create(Path(sys.argv[1]), f"run-{at}", {"who": sys.argv[2]})
        print(at, flush=True)
    except ConflictError as error:
        assert error.exit_code == 5
"""


def test_of_two_processes_exactly_one_gets_the_name(tmp_path: Path) -> None:
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER, str(tmp_path), who], stdout=subprocess.PIPE, text=True)
        for who in ("a", "b")
    ]
    won = [[int(word) for word in racer.communicate()[0].split()] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    assert sorted(won[0] + won[1]) == list(range(40))
    for who, names in zip("ab", won, strict=True):
        assert all(RunDir.load(tmp_path, f"run-{at}").config() == {"who": who} for at in names)
    assert not list(tmp_path.glob(".run-*"))


HOLDER = """
import sys, time
from contextlib import nullcontext
from pathlib import Path
from synth_ray.records.runs import RunDir
with RunDir(Path(sys.argv[1])).hold():
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_holds_a_run_until_it_dies(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "mine", CONFIG)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(run.path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ConflictError, match="running already"), run.hold():
        pytest.fail("two at once")
    run.set_state(State.STARTING)  # state changes don't need to hold it
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with run.hold():
        pass


def test_an_error_in_a_held_run_is_not_mistaken_for_the_lock(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "mine", CONFIG)
    with pytest.raises(BlockingIOError), run.hold():
        raise BlockingIOError


def test_generated_names_are_usable_and_differ() -> None:
    names = {unique_name("rl") for _ in range(50)}
    assert len(names) > 45
    assert all(re.fullmatch(r"rl-\d{8}-\d{6}-[0-9a-f]{4}", safe_name(name)) for name in names)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda one: st.dictionaries(st.sampled_from("abc"), one, max_size=3) | st.lists(one, max_size=2),
)
configs = st.dictionaries(st.sampled_from("abc"), values, max_size=3)


@settings(max_examples=60, deadline=None)
@given(configs, configs)
def test_differing_keys_are_empty_for_equal_configurations_only(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert differing_keys(one, one) == []
    assert differing_keys(one, other) == differing_keys(other, one)
    if config_sha256(one) == config_sha256(other):
        assert differing_keys(one, other) == []


@pytest.mark.parametrize(
    ("ending", "state"),
    [(None, State.SUCCEEDED), (ValueError("why"), State.FAILED), (KeyboardInterrupt(), State.CANCELLED)],
)
def test_an_attempt_records_how_it_ended(tmp_path: Path, ending: BaseException | None, state: State) -> None:
    run = RunDir.create(tmp_path, "r", {"a": 1})
    with nullcontext() if ending is None else pytest.raises(type(ending)), run.attempt("job_1"):
        assert run.record().state is State.RUNNING
        with pytest.raises(ConflictError, match="running already"), run.hold():
            raise AssertionError("unreachable")
        if ending is not None:
            raise ending
    record = run.record()
    assert (record.state, record.attempts[-1].ray_job_id) == (state, "job_1")
    assert record.error == ("why" if state is State.FAILED else None)
