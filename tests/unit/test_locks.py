"""The locks are complete, hashed, tied to no place, and say the same as pyproject.toml."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCKS = ["build", "cpu", "dev", "gpu"]


def pins(checkout: Path, *locks: str) -> dict[str, str]:
    text = "\n".join((checkout / "requirements" / f"{lock}.txt").read_text() for lock in locks)
    return dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", text, re.M))


@pytest.fixture(scope="module")
def project(checkout: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = tomllib.loads((checkout / "pyproject.toml").read_text())
    return loaded


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_a_hash_and_no_line_names_an_index(checkout: Path, lock: str) -> None:
    lines = (checkout / "requirements" / f"{lock}.txt").read_text().splitlines()[1:]
    starts = [number for number, line in enumerate(lines) if not line.startswith(" ")]
    assert starts
    assert all(lines[number + 1].startswith("    --hash=sha256:") for number in starts)
    assert not any("://" in line or line.startswith("-") for line in lines)


@pytest.mark.parametrize(
    ("extras", "locks"),
    [
        (["train", "cpu"], ["cpu", "torch-cpu"]),
        (["train", "gpu", "aws"], ["gpu"]),
        (["dev"], ["cpu", "build", "dev"]),
    ],
)
def test_pins_fit_what_pyproject_declares(
    checkout: Path, project: dict[str, Any], extras: list[str], locks: list[str]
) -> None:
    declared = project["project"]["dependencies"]
    declared = declared + [line for extra in extras for line in project["project"]["optional-dependencies"][extra]]
    pinned = pins(checkout, *locks)
    for requirement in map(Requirement, declared):
        if requirement.name != "synth-ray":
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_the_build_backend_is_locked(checkout: Path, project: dict[str, Any]) -> None:
    for requirement in map(Requirement, project["build-system"]["requires"]):
        assert requirement.specifier.contains(pins(checkout, "build")[requirement.name])


def test_the_cpu_lock_leaves_out_what_breaks_imports_beside_a_cpu_torch(checkout: Path) -> None:
    assert not {"torch", "torchvision", "torchaudio", "torchcodec"} & pins(checkout, "cpu").keys()
    assert pins(checkout, "torch-cpu") == {"torch": f"{pins(checkout, 'gpu')['torch']}+cpu"}


@pytest.mark.parametrize("package", ["crafter", "fastapi", "numba", "numpy", "peft", "pyarrow", "ray", "transformers"])
def test_cpu_and_gpu_run_the_same_version(checkout: Path, package: str) -> None:
    assert pins(checkout, "cpu")[package] == pins(checkout, "gpu")[package]


def test_locks_installed_together_never_disagree(checkout: Path) -> None:
    cpu, build, dev = (pins(checkout, lock) for lock in ("cpu", "build", "dev"))
    assert not dev.keys() & (cpu.keys() | build.keys())
    assert all(cpu[name] == version for name, version in build.items() if name in cpu)
