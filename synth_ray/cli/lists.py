"""What the lists of jobs, models, runs and files have in common: rows of the registry, a table, one record."""

from __future__ import annotations

from typing import Any

from synth_ray.cli.output import clean, data, data_json, say, table


def registered(what: str, limit: int, **only: str) -> list[Any]:
    """Rows of the registry; none if there is no registry yet."""
    from synth_ray.core.paths import find_home
    from synth_ray.records.registry import Registry
    from synth_ray.runtime.settle import settle

    home = find_home()
    if not home.state_db.exists():
        return []
    settle(home)
    with Registry(home.state_db, read_only=True) as registry:
        return list(getattr(registry, what)(limit, **only))


def show_table(
    headers: tuple[str, ...], rows: list[tuple[Any, ...]], right: tuple[str, ...] = (), filtered: bool = False
) -> None:
    """A table, or a word about why there is none: nothing fits the filters, or nothing is there."""
    if rows:
        data(table(headers, rows, right))
    elif filtered:
        say("nothing fits; without the filters you see all")
    else:
        say("nothing yet; start with: synth-ray quickstart")


def show_record(schema: str, record: dict[str, Any], as_json: bool) -> None:
    """One record: JSON, or a line per field."""
    if as_json:
        data_json(schema, record)
        return
    width = max(map(len, record))
    for key, value in record.items():
        data(clean(f"{key:<{width}}  {value if value not in (None, '') else '-'}"))
