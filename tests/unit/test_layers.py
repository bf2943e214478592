"""Imports run one way: jobs -> serve -> envs -> synth_ray; there cli -> runtime -> rollout, records, learn -> core."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

OURS = ("synth_ray", "envs", "serve", "jobs")
FLOOR_2 = {f"synth_ray.{room}" for room in ("core", "rollout", "records", "learn")}
LIBRARY = FLOOR_2 | {"synth_ray.runtime", "synth_ray.view"}
MAY_IMPORT = {  # beside itself and the name synth_ray
    "synth_ray": set(),
    "synth_ray.core": set(),
    "synth_ray.rollout": {"synth_ray.core"},
    "synth_ray.records": {"synth_ray.core"},
    "synth_ray.learn": {"synth_ray.core"},
    "synth_ray.runtime": FLOOR_2,
    "synth_ray.view": FLOOR_2,
    "synth_ray.cli": LIBRARY,
    "envs": {"synth_ray.core", "synth_ray.rollout"},
    "serve": LIBRARY | {"envs"},
    "jobs": LIBRARY | {"envs", "serve"},
}
NEVER = {"synth_ray.core": "ray torch", "synth_ray.rollout": "ray torch", "synth_ray.records": "ray torch"}
NEVER |= {"envs": "ray torch", "synth_ray.learn": "ray"}
NOT_AT_IMPORT_TIME = {"synth_ray.cli": "ray torch vllm transformers", "synth_ray": "ray torch"}


def layer(module: str) -> str:
    """The layer that a dotted name belongs to; empty if it is not ours."""
    return max((name for name in MAY_IMPORT if f"{module}.".startswith(f"{name}.")), key=len, default="")


def imports(node: ast.AST, package: str, lazy: bool = False) -> Iterator[tuple[str, bool]]:
    """Every dotted name imported below ``node``, and whether that waits for a call."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, lazy) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - child.level + 1] if child.level else []
            source = ".".join([*base, *filter(None, [child.module])])
            yield from ((f"{source}.{alias.name}", lazy) for alias in child.names)
        else:
            typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or typing_only
            yield from imports(child, package, lazy or later)


def arrows_that_run_back(root: Path) -> list[str]:
    found = []
    for path in sorted(file for top in OURS for file in (root / top).rglob("*.py")):
        package = ".".join(path.relative_to(root).parent.parts)
        here = layer(package)
        for name, lazy in imports(ast.parse(path.read_text()), package):
            there, distribution = layer(name), name.split(".")[0]
            wrong = there not in {"", "synth_ray", here} | MAY_IMPORT[here]
            wrong |= distribution in NEVER.get(here, "").split()
            wrong |= not lazy and distribution in NOT_AT_IMPORT_TIME.get(here, "").split()
            if wrong:
                found.append(f"{path.relative_to(root)} imports {name}")
    return found


def test_no_arrow_runs_back(checkout: Path) -> None:
    assert arrows_that_run_back(checkout) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("synth_ray/core/types.py", "from synth_ray.records import runs"),
        ("synth_ray/core/types.py", "def f():\n    import torch.nn"),
        ("synth_ray/rollout/episode.py", "from synth_ray.learn.packing import pack"),
        ("synth_ray/rollout/episode.py", "from ..learn import packing"),
        ("synth_ray/records/runs.py", "from synth_ray import runtime"),
        ("synth_ray/learn/step.py", "import ray"),
        ("synth_ray/runtime/trainer.py", "import synth_ray.cli.main"),
        ("synth_ray/cli/main.py", "import ray"),
        ("synth_ray/cli/main.py", "def f():\n    from jobs import rl"),
        ("envs/crafter/task.py", "import synth_ray.runtime.cluster"),
        ("envs/crafter/task.py", "from serve import app"),
        ("serve/app.py", "import jobs.rl"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, file: str, line: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(line)
    assert len(arrows_that_run_back(tmp_path)) == 1


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("synth_ray/cli/main.py", "from synth_ray import __version__\ndef f():\n    import ray"),
        ("synth_ray/runtime/trainer.py", "import ray\nfrom .cluster import start\nfrom ..core.types import Turn"),
        ("jobs/rl.py", "from serve import app\nfrom ray import serve as ray_serve"),
    ],
)
def test_what_runs_forward_is_allowed(tmp_path: Path, file: str, line: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(line)
    assert arrows_that_run_back(tmp_path) == []
