from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from synth_ray.core.errors import CorruptError, StorageError, TemporaryError
from synth_ray.core.types import Message, Provenance, Reply, RewardParts, Rollout, StepFacts, StopReason, Turn
from synth_ray.records import database
from synth_ray.records.registry import Registry
from synth_ray.records.traces import TraceDB


def rollout(rollout_id: str, text: str = "hello " * 50) -> Rollout:
    reply = Reply(text, token_ids=(1, 2, 3), logprobs=(-0.5, -0.25, -1.0))
    turns = tuple(
        Turn(at, (Message("user", text),), reply, StepFacts(("noop",)), RewardParts(), 1.0, 1.0) for at in range(3)
    )
    return Rollout(
        rollout_id, "run", "crafter", 1, "m", Provenance.ENGINE, turns, 0.0, (), StopReason.TURNS, "", 1.0
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "t.db"
    with TraceDB(path) as traces:
        traces.add([rollout(f"r{at}") for at in range(40)])
    return path.read_bytes()


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_records_database import rollout
from synth_ray.records.traces import TraceDB
with TraceDB(Path(sys.argv[1]), check=False) as traces:
    for batch in range(10_000):
        ids = [f"{sys.argv[3]}-{batch}-{at}" for at in range(3)]
        traces.add([rollout(one) for one in ids])
        print(*ids, flush=True)
"""


def test_every_acknowledged_rollout_survives_kills(tmp_path: Path) -> None:
    path, chance = tmp_path / "t.db", random.Random(1)
    acked: list[str] = []
    for attempt in range(10):
        command = [sys.executable, "-c", WRITER, str(path), str(Path(__file__).parent), str(attempt)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        acked += writer.stdout.readline().split()
        time.sleep(chance.uniform(0.0, 0.15))
        writer.send_signal(signal.SIGKILL)
        lines = writer.stdout.read().split("\n")
        acked += [word for line in lines[:-1] for word in line.split()]
        writer.wait()
        with TraceDB(path, read_only=True) as traces:  # also rolls back what the killed writer left
            stored = {session.rollout_id for session in traces.sessions()}
            assert stored >= set(acked)
            assert len(stored) % 3 == 0
            assert traces.load(acked[-1]) == rollout(acked[-1])
    assert len(acked) >= 30
    with sqlite3.connect(path) as plain:
        assert plain.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def set_version(path: Path, pragma: str) -> None:
    with sqlite3.connect(path) as plain:
        plain.execute(f"PRAGMA {pragma}")


DAMAGES: dict[str, Callable[[Path, bytes], object]] = {
    "empty": lambda path, _: path.write_bytes(b""),
    "one byte": lambda path, _: path.write_bytes(b"S"),
    "half a header": lambda path, whole: path.write_bytes(whole[:50]),
    "random bytes": lambda path, _: path.write_bytes(random.Random(2).randbytes(20_000)),
    "text": lambda path, _: path.write_text("not a database\n" * 500),
    "truncated": lambda path, whole: path.write_bytes(whole[: len(whole) // 2]),
    "truncated by a byte": lambda path, whole: path.write_bytes(whole[:-1]),
    "a zeroed page": lambda path, whole: path.write_bytes(whole[:8192] + b"\0" * 4096 + whole[12288:]),
    "a newer version": lambda path, _: set_version(path, "user_version=2"),
    "an older version": lambda path, _: set_version(path, "user_version=0"),
    "another program's": lambda path, _: set_version(path, "application_id=1"),
}


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("read_only", [True, False])
def test_a_damaged_file_is_refused_and_named(tmp_path: Path, whole: bytes, name: str, read_only: bool) -> None:
    path = tmp_path / "t.db"
    path.write_bytes(whole)
    DAMAGES[name](path, whole)
    before = path.read_bytes()
    with pytest.raises(CorruptError, match=r"t\.db") as caught:
        TraceDB(path, read_only=read_only)
    assert caught.value.exit_code == 7
    assert path.read_bytes() == before


def test_random_damage_is_found_or_harmless(tmp_path: Path, whole: bytes) -> None:
    path, chance, refused = tmp_path / "t.db", random.Random(3), 0
    for _ in range(100):
        at, size = chance.randrange(len(whole)), chance.choice([1, 16, 500])
        path.write_bytes((whole[:at] + chance.randbytes(size) + whole[at + size :])[: len(whole)])
        (tmp_path / "t.db-journal").unlink(missing_ok=True)
        try:
            with TraceDB(path) as traces:
                assert len(list(traces.rollouts())) <= 41
        except CorruptError as error:
            assert "t.db" in error.message
            refused += 1
    assert refused > 20


def test_truncation_anywhere_is_refused(tmp_path: Path, whole: bytes) -> None:
    path, chance = tmp_path / "t.db", random.Random(4)
    for _ in range(200):
        path.write_bytes(whole[: chance.randrange(len(whole))])
        with pytest.raises(CorruptError, match=r"t\.db"):
            TraceDB(path, read_only=True)


def test_the_kinds_are_not_mixed_up(tmp_path: Path) -> None:
    Registry(tmp_path / "state.db").close()
    with pytest.raises(CorruptError, match="not a trace database"):
        TraceDB(tmp_path / "state.db")
    with pytest.raises(CorruptError, match="not a file"):
        TraceDB(tmp_path)


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "theirs.db") as theirs:
        theirs.execute("PRAGMA journal_mode=WAL")
        theirs.execute("CREATE TABLE t (x)")
    theirs.close()
    before = (tmp_path / "theirs.db").read_bytes()
    with pytest.raises(CorruptError):
        TraceDB(tmp_path / "theirs.db")
    assert (tmp_path / "theirs.db").read_bytes() == before


def test_changed_tables_are_damage(tmp_path: Path) -> None:
    TraceDB(tmp_path / "t.db").close()
    with sqlite3.connect(tmp_path / "t.db") as plain:
        plain.execute("ALTER TABLE turns RENAME COLUMN facts TO fact")
    with pytest.raises(CorruptError, match="its tables are not"):
        TraceDB(tmp_path / "t.db", check=False)


def test_a_locked_file_is_a_temporary_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.05)
    with TraceDB(tmp_path / "t.db") as traces:
        other = sqlite3.connect(tmp_path / "t.db", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TemporaryError) as caught:
            traces.add([rollout("a")])
        assert caught.value.exit_code == 75
        other.close()
        assert traces.add([rollout("a")]).new == 1


def test_a_full_disk_stores_nothing_and_is_a_storage_error(tmp_path: Path) -> None:
    with TraceDB(tmp_path / "t.db") as traces:
        traces.add([rollout("a")])
        pages = traces._database.rows("PRAGMA page_count")[0][0]
        traces._database.rows(f"PRAGMA max_page_count={pages + 2}")
        with pytest.raises(StorageError) as caught:
            traces.add([rollout(f"b{at}", "x" * 5000) for at in range(20)])
        assert caught.value.exit_code == 74
        assert traces.count() == 1
        traces._database.rows("PRAGMA max_page_count=100000")
        assert traces.add([rollout("c")]).new == 1


def test_a_full_disk_at_creation_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError):
        TraceDB(tmp_path / "t.db")
    assert list(tmp_path.iterdir()) == []


CREATOR = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_records_database import rollout
from synth_ray.records.traces import TraceDB
folder, deadline = Path(sys.argv[1]), time.monotonic() + 60
for at in range(10):
    (folder / f"{at}.ready.{sys.argv[3]}").touch()
    while len(list(folder.glob(f"{at}.ready.*"))) < 2:
        assert time.monotonic() < deadline, "the other process is gone"
    with TraceDB(folder / f"{at}.db") as traces:
        traces.add([rollout(sys.argv[3])])
"""


def test_processes_that_create_one_file_together_lose_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CREATOR, str(tmp_path), str(Path(__file__).parent)]
    processes = [subprocess.Popen([*command, name]) for name in ("a", "b")]
    assert [process.wait() for process in processes] == [0, 0]
    for at in range(10):
        with TraceDB(tmp_path / f"{at}.db") as traces:
            assert traces.count() == 2
    assert not list(tmp_path.glob("*.tmp-*"))
