"""Uploads: content-addressed, checked, private; and registries of the version before."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from synth_ray.core.errors import CorruptError, NotFoundError
from synth_ray.core.hashing import sha256_bytes
from synth_ray.core.paths import Home
from synth_ray.records.registry import LAYOUT, Registry
from synth_ray.records.uploads import is_file_id, stored, upload

LINE = b'{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}\n'


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(state=tmp_path / "state", project=tmp_path)


def test_the_same_bytes_are_one_file(home: Home, tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_bytes(LINE)
    first = upload(home, tmp_path / "a.jsonl")
    assert upload(home, tmp_path / "a.jsonl") == first
    assert first.file_id == f"file-{sha256_bytes(LINE)[:24]}"
    assert is_file_id(first.file_id)
    assert (first.filename, first.purpose, first.size_bytes) == ("a.jsonl", "fine-tune", len(LINE))
    (tmp_path / "a.jsonl").write_bytes(b"changed")
    file, path = stored(home, first.file_id)
    assert (file, path.read_bytes()) == (first, LINE)
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(one.name for one in home.files.iterdir()) == [first.sha256]
    with Registry(home.state_db) as registry:
        assert registry.files() == [first]
        assert registry.files(purpose="other") == []


def test_the_last_upload_gives_name_and_purpose(home: Home, tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_bytes(LINE)
    first = upload(home, tmp_path / "a.jsonl", "other")
    again = upload(home, tmp_path / "b.jsonl", "fine-tune")
    assert again == replace(first, filename="b.jsonl", purpose="fine-tune")
    assert stored(home, first.file_id)[0] == again
    with Registry(home.state_db) as registry:
        assert registry.files(purpose="fine-tune") == [again]
        assert registry.files(purpose="other") == []


def test_what_is_no_data_set_is_refused_unless_it_is_said_so(home: Home, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_bytes(LINE + b"oops\n")
    with pytest.raises(CorruptError, match="line 2"):
        upload(home, tmp_path / "bad.jsonl")
    assert not home.state_db.exists()
    assert upload(home, tmp_path / "bad.jsonl", "other").purpose == "other"
    with pytest.raises(NotFoundError):
        upload(home, tmp_path / "missing.jsonl")


def test_unknown_and_changed_copies(home: Home, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="file-0"):
        stored(home, "file-0")
    (tmp_path / "a.jsonl").write_bytes(LINE)
    file = upload(home, tmp_path / "a.jsonl")
    with pytest.raises(NotFoundError) as caught:
        stored(home, file.file_id[:-1] + "x")
    assert file.file_id in caught.value.hint
    (home.files / file.sha256).write_bytes(b"other")
    with pytest.raises(CorruptError):
        stored(home, file.file_id)
    upload(home, tmp_path / "a.jsonl")  # heals
    stored(home, file.file_id)


def version_1(path: Path) -> None:
    """A registry as the version before wrote it, with one job."""
    with sqlite3.connect(path) as plain:
        script = LAYOUT.script.partition("CREATE TABLE files")[0]
        plain.executescript(f"PRAGMA application_id={LAYOUT.application_id}; PRAGMA user_version=1; {script}")
        plain.execute("INSERT INTO jobs VALUES ('job_1', 'rl', 'run', 'SUCCEEDED', 't', 't', '', '', '', NULL, NULL)")


@pytest.mark.parametrize("read_only", [False, True])
def test_a_registry_of_version_1_is_brought_up_to_date(tmp_path: Path, read_only: bool) -> None:
    version_1(tmp_path / "state.db")
    with Registry(tmp_path / "state.db", read_only=read_only) as registry:
        assert [job.job_id for job in registry.jobs()] == ["job_1"]
        assert registry.files() == []
    with sqlite3.connect(tmp_path / "state.db") as plain:
        assert plain.execute("PRAGMA user_version").fetchone()[0] == LAYOUT.version
    with Registry(tmp_path / "state.db") as registry:
        assert registry.job("job_1").name == "run"


def test_a_registry_of_a_later_version_is_refused(tmp_path: Path) -> None:
    Registry(tmp_path / "state.db").close()
    with sqlite3.connect(tmp_path / "state.db") as plain:
        plain.execute(f"PRAGMA user_version={LAYOUT.version + 1}")
    with pytest.raises(CorruptError, match="schema version"):
        Registry(tmp_path / "state.db")
