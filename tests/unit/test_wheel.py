"""The wheel installs one name; what a user's project consists of travels inside it."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest


def build(checkout: Path, folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(checkout, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    return zipfile.ZipFile(wheel).namelist()


def test_one_top_level_name(names: list[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"synth_ray"}


@pytest.mark.parametrize("file", ["envs/__init__.py", "serve/__init__.py", "jobs/__init__.py", "cluster.yaml"])
def test_the_project_travels_inside(names: list[str], file: str) -> None:
    assert f"synth_ray/_app/{file}" in names


@pytest.mark.parametrize("folder", ["configs", "envs", "jobs", "requirements", "serve"])
def test_every_file_of_a_folder_travels(checkout: Path, names: list[str], folder: str) -> None:
    files = {
        f"synth_ray/_app/{path.relative_to(checkout).as_posix()}"
        for path in (checkout / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files
    assert files == {name for name in names if name.startswith(f"synth_ray/_app/{folder}/")}


def test_nothing_private_or_generated_travels(names: list[str]) -> None:
    unwanted = (".pyc", ".pem", ".env", "auth_token", ".db")
    assert [name for name in names if name.endswith(unwanted) or "tests/" in name] == []


def test_an_installed_copy_finds_its_project(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = "from synth_ray.core.paths import app_root; print(app_root())"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert Path(found.stdout.strip()) == site / "synth_ray" / "_app", found.stderr


def test_two_builds_are_byte_identical(checkout: Path, wheel: Path, tmp_path: Path) -> None:
    assert build(checkout, tmp_path).read_bytes() == wheel.read_bytes()


def test_every_import_is_declared(checkout: Path) -> None:
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    declared = {re.split(r"[\[=<>~ ]", line, maxsplit=1)[0] for lines in lists for line in lines}
    providers, ours = packages_distributions(), {"synth_ray", "envs", "serve", "jobs"}
    imported: set[str] = set()
    for file in (file for top in ours for file in (checkout / top).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
    third_party = imported - ours - set(sys.stdlib_module_names)
    distributions = {name: {each.lower().replace("_", "-") for each in providers[name]} for name in third_party}
    assert [name for name, from_ in sorted(distributions.items()) if not from_ & declared] == []
