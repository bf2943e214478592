"""Models as a tree: what was made from what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from synth_ray.records.registry import Model

Row = tuple[str, str, str, str]


def tree_rows(models: Sequence[Model]) -> list[Row]:
    """Name, kind, job, time of creation; children below their parent, oldest first; roots are models made elsewhere."""
    children: dict[str, list[Model]] = {}
    for model in reversed(models):
        children.setdefault(model.base, []).append(model)
    known = {model.model_id for model in models}
    shown: set[str] = set()
    rows: list[Row] = []
    for root in (base for base in children if base not in known):
        rows += [(root, "", "", ""), *_below(root, children, "", shown)]
    circular = [model for model in models if model.model_id not in shown]
    return rows + [(model.model_id, model.kind, model.job_id, model.created_at[:19]) for model in circular]


def _below(parent: str, children: dict[str, list[Model]], indent: str, shown: set[str]) -> Iterator[Row]:
    mine = [model for model in children.get(parent, []) if model.model_id not in shown]
    for model in mine:
        shown.add(model.model_id)
        last = model is mine[-1]
        yield f"{indent}{'└─ ' if last else '├─ '}{model.model_id}", model.kind, model.job_id, model.created_at[:19]
        yield from _below(model.model_id, children, indent + ("   " if last else "│  "), shown)
