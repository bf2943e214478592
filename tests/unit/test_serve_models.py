"""From a name to exact weights: files that are not those that were registered are refused."""

import json
import shutil
from pathlib import Path

import pytest

from serve.models import resolve
from synth_ray.core.errors import NotFoundError, WrongWeights
from synth_ray.core.hashing import sha256_bytes
from synth_ray.core.paths import Home
from synth_ray.learn.adapter_files import write_adapter
from synth_ray.learn.model_files import architecture_of, base_digest
from synth_ray.records.registry import Model, Registry

ADAPTER = b"adapter bytes"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    root = tmp_path_factory.mktemp("home")
    return Home(root, root)


@pytest.fixture
def registry(home: Home, tmp_path: Path) -> Registry:
    """A built-in base, a full model made of it, and an adapter on that."""
    base = Path(resolve("crafter-tiny", home, Registry(tmp_path / "empty.db")).weights.base_dir)
    full, adapter = tmp_path / "full", tmp_path / "adapter"
    shutil.copytree(base, full)
    write_adapter(adapter, ADAPTER, {"r": 8})
    digest = base_digest(full)
    registry = Registry(tmp_path / "state.db")
    registry.add_model(Model("fft:crafter-tiny:job_a", "crafter-tiny", "full", str(full), digest, "job_a"))
    rl, fft = "rl:crafter-tiny:job_b", "fft:crafter-tiny:job_a"
    weights = sha256_bytes(ADAPTER)
    about = {"base_digest": digest}
    registry.add_model(Model(rl, fft, "adapter", str(adapter), weights, "job_b", base_path=str(full), metrics=about))
    return registry


def test_names_resolve_to_digests(home: Home, registry: Registry, tmp_path: Path) -> None:
    full = resolve("fft:crafter-tiny:job_a", home, registry)
    tuned = resolve("rl:crafter-tiny:job_b", home, registry)
    assert full.weights.digest == base_digest(tmp_path / "full") == tuned.weights.base_digest
    assert (tuned.weights.name, tuned.weights.digest) == ("job_b@final", sha256_bytes(ADAPTER))
    with pytest.raises(NotFoundError, match="crafter-tny"):
        resolve("crafter-tny", home, registry)


def test_a_folder_is_looked_for_in_the_project(
    home: Home, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    there = resolve("models/crafter-tiny", home, registry)
    assert (there.ref, there.weights.base_dir) == ("models/crafter-tiny", str(home.models / "crafter-tiny"))
    assert resolve("full", home, registry).weights.base_dir == str(tmp_path / "full")


def test_changed_files_are_refused(home: Home, registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"other bytes")
    with pytest.raises(WrongWeights, match="does not match"):
        resolve("rl:crafter-tiny:job_b", home, registry)
    write_adapter(tmp_path / "adapter", ADAPTER, {"r": 8})
    with (tmp_path / "full" / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    for name in ("rl:crafter-tiny:job_b", "fft:crafter-tiny:job_a"):
        with pytest.raises(WrongWeights, match="not those that were registered"):
            resolve(name, home, registry)


def test_architecture_ignores_names_and_takes_a_silent_config_for_tied(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8, "_name_or_path": "x", "dtype": "float32"}))
    assert architecture_of(tmp_path) == {"hidden_size": 8, "tie_word_embeddings": True}
