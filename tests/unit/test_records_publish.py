from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synth_ray.core.errors import ConflictError, CorruptError, StorageError
from synth_ray.core.hashing import sha256_bytes
from synth_ray.records.disk import write_atomic
from synth_ray.records.publish import latest_valid, publishing, remove_leftovers, verify


def publish(target: Path, step: int = 3, data: bytes = b"weights" * 100) -> Path:
    with publishing(target, {"step": step, "config_sha256": "abc"}) as folder:
        (folder / "adapter.safetensors").write_bytes(data)
        (folder / "sub").mkdir()
        (folder / "sub" / "state.json").write_text("{}")
    return target


def test_a_published_folder_verifies_and_says_what_it_is(tmp_path: Path) -> None:
    manifest = verify(publish(tmp_path / "checkpoints" / "step_000003"))
    assert manifest.meta == {"step": 3, "config_sha256": "abc"}
    assert set(manifest.files) == {"adapter.safetensors", "sub/state.json"}
    assert manifest.files["adapter.safetensors"].sha256 == sha256_bytes(b"weights" * 100)
    assert manifest.files["adapter.safetensors"].size_bytes == 700
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_000003"]


def test_nothing_is_visible_before_the_block_ends(tmp_path: Path) -> None:
    with publishing(tmp_path / "step_1", {}) as folder:
        (folder / "file").write_text("x")
        assert not (tmp_path / "step_1").exists()
        assert latest_valid(tmp_path, "step_*").folder is None
    assert latest_valid(tmp_path, "step_*").folder == tmp_path / "step_1"


def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="boom"), publishing(tmp_path / "step_1", {}) as folder:
        (folder / "file").write_text("x")
        raise RuntimeError("boom")
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from synth_ray.records import publish
publish._appear = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
with publish.publishing(Path(sys.argv[1]), {"step": 1}) as folder:
    (folder / "file").write_text("x")
"""


def test_a_kill_before_the_rename_leaves_only_an_ignored_folder(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED, tmp_path / "step_1"], check=False).returncode == -9
    assert not (tmp_path / "step_1").exists()
    assert latest_valid(tmp_path, "step_*") == latest_valid(tmp_path / "missing", "step_*")
    assert remove_leftovers(tmp_path) == ()  # too young
    assert len(remove_leftovers(tmp_path, older_than_s=0.0)) == 1
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_living_processes_stay(tmp_path: Path) -> None:
    with publishing(tmp_path / "step_1", {}):
        assert remove_leftovers(tmp_path, older_than_s=0.0) == ()


def test_every_flipped_byte_is_found_and_named(tmp_path: Path) -> None:
    folder = publish(tmp_path / "step_1", data=b"0123456789")
    for name in ("adapter.safetensors", "manifest.json"):
        whole = (folder / name).read_bytes()
        for at in range(len(whole)):
            (folder / name).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises(CorruptError, match=name) as caught:
                verify(folder)
            assert caught.value.exit_code == 7
        (folder / name).write_bytes(whole)
    verify(folder)


@pytest.mark.parametrize("damage", [b"", b"not json", b"[]", b"{}", b'{"files": 3}', b"\xff"])
def test_a_wrong_manifest_is_corrupt(tmp_path: Path, damage: bytes) -> None:
    folder = publish(tmp_path / "step_1")
    (folder / "manifest.json").write_bytes(damage)
    with pytest.raises(CorruptError, match=r"manifest\.json"):
        verify(folder)


def test_a_manifest_cannot_point_outside_its_folder(tmp_path: Path) -> None:
    folder = publish(tmp_path / "step_1")
    text = (folder / "manifest.json").read_text().replace("adapter.safetensors", "../outside")
    (folder / "manifest.json").write_text(text)
    with pytest.raises(CorruptError, match="manifest"):
        verify(folder)


def test_missing_and_short_files_are_named(tmp_path: Path) -> None:
    folder = publish(tmp_path / "step_1")
    (folder / "adapter.safetensors").write_bytes(b"weights")
    with pytest.raises(CorruptError, match=r"adapter\.safetensors has 7 bytes instead of 700"):
        verify(folder)
    (folder / "adapter.safetensors").unlink()
    with pytest.raises(CorruptError, match=r"adapter\.safetensors is missing"):
        verify(folder)


def test_latest_valid_takes_the_highest_number_and_reports_the_others(tmp_path: Path) -> None:
    for step in (2, 9, 10, 11):
        publish(tmp_path / f"step_{step}", step)
    os.utime(tmp_path / "step_2", (time.time() + 9999, time.time() + 9999))  # clocks don't matter
    (tmp_path / "step_11" / "adapter.safetensors").write_bytes(b"broken")
    (tmp_path / "step_12").mkdir()
    latest = latest_valid(tmp_path, "step_*")
    assert latest.folder == tmp_path / "step_10"
    assert latest.manifest is not None
    assert latest.manifest.meta["step"] == 10
    assert [one.folder.name for one in latest.rejected] == ["step_12", "step_11"]


def test_publishing_again(tmp_path: Path) -> None:
    folder = publish(tmp_path / "step_1")
    publish(folder)  # the same content: a repeated attempt
    with pytest.raises(ConflictError):
        publish(folder, data=b"other")
    assert (folder / "adapter.safetensors").read_bytes() == b"weights" * 100
    assert [path.name for path in tmp_path.iterdir()] == ["step_1"]


def test_a_damaged_folder_is_set_aside(tmp_path: Path) -> None:
    folder = publish(tmp_path / "step_1")
    (folder / "adapter.safetensors").write_bytes(b"broken")
    publish(folder, data=b"other")
    verify(folder)
    kept = [path for path in tmp_path.iterdir() if path != folder]
    assert [(path / "adapter.safetensors").read_bytes() for path in kept] == [b"broken"]
    assert latest_valid(tmp_path, "step_*").folder == folder


def test_folders_of_others_are_never_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("a file")
    for name in ("mine", "file"):
        with pytest.raises(ConflictError):
            publish(tmp_path / name)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_meta_that_is_not_json_fails_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"), publishing(tmp_path / "x", {"loss": float("nan")}):
        pytest.fail("the work began")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_full_disk_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    write_atomic(tmp_path / "file", "old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError) as caught:
        publish(tmp_path / "step_1")
    assert caught.value.exit_code == 74
    with pytest.raises(StorageError):
        write_atomic(tmp_path / "file", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomic(tmp_path / "folder", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


LIMITED = """
import resource, sys
from pathlib import Path
from synth_ray.core.errors import StorageError
from synth_ray.records.disk import write_atomic
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomic(Path(sys.argv[1]), b"x" * 2000)
except StorageError as error:
    sys.exit(error.exit_code)
"""


def test_the_kernel_refusing_bytes_leaves_the_old_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", "old", mode=0o600)
    assert subprocess.run([sys.executable, "-c", LIMITED, tmp_path / "file"], check=False).returncode == 74
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.text("abc/.", min_size=1, max_size=3).filter(str.isalpha), st.binary(max_size=50), max_size=3)
)
def test_any_files_verify(tmp_path: Path, files: dict[str, bytes]) -> None:
    target = tmp_path / sha256_bytes(json.dumps({k: v.hex() for k, v in files.items()}).encode())
    with publishing(target, {}) as folder:
        for name, data in files.items():
            (folder / name).write_bytes(data)
    assert verify(target).files.keys() == files.keys()
