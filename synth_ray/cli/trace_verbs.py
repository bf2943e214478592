"""traces: list, show, query and export what was recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from synth_ray.cli import options
from synth_ray.cli.output import clean, data, data_json, say, table

if TYPE_CHECKING:
    from synth_ray.core.types import Rollout, Turn
    from synth_ray.records.sessions import SessionQuery

F = TypeVar("F", bound=Callable[..., Any])

_CELL_CHARS = 60
_REASONING = ("reasoning_content", "reasoning", "thinking")

trace_db_option = click.option(
    "--trace-db",
    type=click.Path(path_type=Path),
    callback=options.in_project,
    help="SQLite file; without it the newest one under traces/.",
)
run_option = click.option("--run", default="", help="Take the rollout from this RL run instead.")
_FORMATS = click.Choice(["parquet", "jsonl", "otlp-json"])


def _filter_options(function: F) -> F:
    for option in (
        click.option("--min-outcome", type=float, help="Lowest outcome reward."),
        click.option("--seeds", help='For example "0-9,20".'),
        click.option("--model", "models", multiple=True, help="Repeatable."),
    ):
        function = option(function)
    return function


@click.group()
def traces() -> None:
    """What was recorded: every prompt, reply, action and reward.

    \b
    synth-ray traces list --min-outcome 3
    synth-ray traces show best
    synth-ray traces query "SELECT model, avg(outcome) FROM sessions GROUP BY model"
    synth-ray traces export --format parquet --out traces.parquet
    """


@traces.command("list")
@_filter_options
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
@trace_db_option
@options.json_option
def list_(
    models: tuple[str, ...],
    seeds: str | None,
    min_outcome: float | None,
    limit: int,
    trace_db: Path | None,
    as_json: bool,
) -> None:
    """Rollouts without their turns, newest first."""
    from dataclasses import asdict

    from synth_ray.records.traces import TraceDB

    path = _database(trace_db)
    with TraceDB(path, read_only=True, check=False) as database:
        sessions = list(database.sessions(_query(models, seeds, min_outcome, limit)))
    if as_json:
        data_json("traces.list", [asdict(session) for session in sessions])
        return
    headers = ("rollout", "model", "seed", "outcome", "turns", "unusable", "ended", "started")
    rows = [
        (
            one.rollout_id,
            one.model,
            one.seed,
            f"{one.outcome:g}",
            one.n_turns,
            one.invalid_turns,
            one.stop_reason.value,
            one.started_at[:19],
        )
        for one in sessions
    ]
    if rows:
        data(table(headers, rows, right=("seed", "outcome", "turns", "unusable")))
    say(f"{len(rows)} rollouts of {path}")


@traces.command()
@click.argument("rollout", default="last")
@trace_db_option
@run_option
@options.json_option
def show(rollout: str, trace_db: Path | None, run: str, as_json: bool) -> None:
    """One rollout, turn by turn. ROLLOUT is an id, the beginning of one, best, worst or last."""
    from synth_ray.core.paths import find_home
    from synth_ray.records.recorded import find_recorded
    from synth_ray.records.trace_json import rollout_json

    found = find_recorded(find_home(), rollout, trace_db, run)
    if as_json:
        data_json("traces.show", rollout_json(found.rollout))
    else:
        data(clean(_story(found.rollout)))


@traces.command()
@click.argument("sql")
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True, help="Most rows.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(0.01), default=10.0, show_default=True, help="Seconds.")
@trace_db_option
@options.json_option
def query(sql: str, limit: int, timeout_s: float, trace_db: Path | None, as_json: bool) -> None:
    """The answer to one SELECT; the tables are sessions and turns. Nothing can be changed by it.

    Columns, units and more queries: docs/traces.md.

    \b
    synth-ray traces query "SELECT model, count(*) AS n, avg(outcome) AS mean FROM sessions GROUP BY model"
    """
    from synth_ray.records.trace_query import ask

    answer = ask(_database(trace_db), sql, limit, timeout_s)
    if as_json:
        data_json("traces.query", {"columns": answer.columns, "rows": answer.rows, "cut": answer.cut})
        return
    data(table(answer.columns, [[_cell(value) for value in row] for row in answer.rows]))
    if answer.cut:
        say(f"only the first {limit} rows; more with --limit")


@traces.command()
@click.option("--format", "format_name", type=_FORMATS, default="parquet", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File to write; an old one is replaced.")
@click.option("--content", is_flag=True, help="otlp-json: also what was said (the other formats always have it).")
@_filter_options
@click.option("--limit", type=click.IntRange(1), help="Most rollouts.")
@trace_db_option
@options.json_option
def export(
    format_name: str,
    out: Path,
    content: bool,
    models: tuple[str, ...],
    seeds: str | None,
    min_outcome: float | None,
    limit: int | None,
    trace_db: Path | None,
    as_json: bool,
) -> None:
    """Whole rollouts as one file: Parquet, JSON lines, or OpenTelemetry spans (GenAI conventions) as OTLP JSON."""
    from synth_ray.records.trace_export import export as write
    from synth_ray.records.traces import TraceDB

    path = _database(trace_db)
    with TraceDB(path, read_only=True) as database:
        count = write(database.rollouts(_query(models, seeds, min_outcome, limit)), format_name, out, content)
    if as_json:
        data_json("traces.export", {"out": str(out), "format": format_name, "rollouts": count, "trace_db": str(path)})
        return
    data(str(out))
    say(f"{count} rollouts of {path}")


def _database(trace_db: Path | None) -> Path:
    from synth_ray.core.paths import find_home
    from synth_ray.records.recorded import newest_trace_db

    return trace_db or newest_trace_db(find_home().traces)


def _query(models: Sequence[str], seeds: str | None, min_outcome: float | None, limit: int | None) -> SessionQuery:
    from synth_ray.core.errors import ConfigError
    from synth_ray.core.sections import parse_seeds
    from synth_ray.records.sessions import SessionQuery

    try:
        wanted = parse_seeds(seeds) if seeds else []
    except ValueError as error:
        raise ConfigError(f"--seeds: {error}") from None
    return SessionQuery(models=models, seeds=wanted, min_outcome=min_outcome, limit=limit, order="newest")


def _story(rollout: Rollout) -> str:
    facts = [
        f"rollout {rollout.rollout_id}  task {rollout.task}  seed {rollout.seed}  model {rollout.model}",
        f"outcome {rollout.outcome:g}  ended: {rollout.stop_reason.value}  started {rollout.started_at}",
        f"achievements: {', '.join(rollout.achievements) or '-'}",
    ]
    if rollout.error:
        facts.append(f"error: {rollout.error}")
    return "\n".join([*facts, *(_turn_story(turn) for turn in rollout.turns)])


def _turn_story(turn: Turn) -> str:
    from synth_ray.core.hashing import canonical_json

    extra = turn.reply.extra
    shown = [(message.role, message.content) for message in turn.messages]
    lines = [("images", str(len(message.images))) for message in turn.messages if message.images]
    lines += [("reasoning", str(extra[name])) for name in _REASONING if extra.get(name)][:1]
    lines += [("reply", turn.reply.text)]
    lines += [("tool calls", canonical_json(extra["tool_calls"]))] if extra.get("tool_calls") else []
    lines += [("actions", " ".join(turn.facts.actions) or "-")]
    lines += [("problem", turn.facts.problem)] if turn.facts.problem else []
    lines += [("reward", _parts(turn.reward.parts))]
    lines += [("unlocked", " ".join(turn.facts.unlocked))] if turn.facts.unlocked else []
    body = [f"  {name + ':':<12}{_indented(text)}" for name, text in [*shown, *lines]]
    return "\n".join([f"\nturn {turn.index}  {turn.sample_ms:.0f} ms  {turn.reply.weights_name}".rstrip(), *body])


def _parts(parts: Mapping[str, float]) -> str:
    total = f"{sum(parts.values()):g}"
    return f"{total} = " + " + ".join(f"{value:g} {name}" for name, value in parts.items()) if parts else total


def _indented(text: str) -> str:
    return text.replace("\n", "\n" + " " * 14)


def _cell(value: Any) -> str:
    text = "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    line = " ".join(text.split())
    return line if len(line) <= _CELL_CHARS else line[: _CELL_CHARS - 3] + "..."
