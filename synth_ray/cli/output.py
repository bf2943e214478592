"""What a person or a program sees: data on stdout, everything else on stderr, no control characters from models."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from synth_ray.core.errors import SynthRayError
from synth_ray.core.text import clean

__all__ = ["clean", "data", "data_json", "failure_notice", "report_error", "say", "scores_table", "table"]


def say(text: str) -> None:
    """A line for people."""
    sys.stderr.write(clean(text) + "\n")
    sys.stderr.flush()


def data(text: str) -> None:
    """A line of data."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def data_json(schema: str, value: Any) -> None:
    """The JSON form of a verb's answer."""
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    data(json.dumps({"schema": f"synth-ray/{schema}/1", "as_of": now, "data": value}))


def report_error(error: SynthRayError, as_json: bool) -> None:
    """One clear message; with ``--json`` the error object on stdout."""
    if as_json:
        data(json.dumps({"error": error.as_dict()}))
    say(f"error: {error.message}")
    if error.hint:
        say(f" hint: {error.hint}")


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[str] = ()) -> str:
    """An aligned table; columns named in ``right`` are right-aligned."""
    cells = [[clean(str(cell)) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(headers), *cells]) for i in range(len(headers))]

    def line(values: Sequence[str]) -> str:
        parts = [
            value.rjust(width) if header in right else value.ljust(width)
            for header, value, width in zip(headers, values, widths, strict=True)
        ]
        return "  ".join(parts).rstrip()

    return "\n".join([line(headers), line(["-" * width for width in widths]), *(line(row) for row in cells)])


def failure_notice(result: Mapping[str, Any]) -> str:
    """How many rollouts of an evaluation failed, why, and how to play them again; empty if none did."""
    failed = result["errors"]
    if not failed:
        return ""
    again = f"again: synth-ray eval --resume {result['job_id']}"
    return f"{failed} of {failed + result['n']} rollouts failed; first: {result['first_error']}; {again}"


def scores_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Models side by side: unique achievements +- standard error, episodes, Crafter score."""
    columns: dict[str, Callable[[Mapping[str, Any]], Any]] = {
        "model": lambda result: result["model"],
        "unique achievements": lambda result: f"{result['mean']:.3f} +- {result['se']:.3f}",
        "episodes": lambda result: result["n"],
        "Crafter score": lambda result: f"{result['crafter_score']:.2f} %",
        "unusable replies": lambda result: f"{100 * result['invalid_turn_rate']:.1f} %",
    }
    if not all("crafter_score" in result for result in results):  # another world
        del columns["Crafter score"]
    headers = tuple(columns)
    rows = [tuple(cell(result) for cell in columns.values()) for result in results]
    return table(headers, rows, right=headers[1:])
