"""replay: a recorded rollout as a film."""

from __future__ import annotations

from pathlib import Path

import click

from synth_ray.cli import options
from synth_ray.cli.output import data, data_json, say
from synth_ray.cli.trace_verbs import run_option, trace_db_option


@click.command()
@click.argument("rollout", default="best")
@trace_db_option
@run_option
@click.option("--out", type=click.Path(path_type=Path), help="File ending in .gif or .webp; replay-ID.gif if absent.")
@click.option("--fps", type=click.FloatRange(0.2, 50), default=4.0, show_default=True, help="Actions per second.")
@click.option("--scale", type=click.IntRange(1, 4), default=1, show_default=True, help="Size of the picture.")
@click.option("--app", default="", help="module:Class of a task that is not built in.")
@options.json_option
def replay(
    rollout: str,
    trace_db: Path | None,
    run: str,
    out: Path | None,
    fps: float,
    scale: int,
    app: str,
    as_json: bool,
) -> None:
    """Play a recorded rollout again, check it against the record, and make a film of it.

    ROLLOUT is an id, the unique beginning of one, best, worst or last. Exit code 7 if the replay, from seed and
    actions, went otherwise than recorded.

    \b
    synth-ray replay best --out best.gif
    synth-ray replay last --run my-run --out last.webp --fps 8 --scale 2
    """
    from synth_ray.cli.verbs import run_script

    given = {"--trace-db": trace_db, "--run": run, "--out": out, "--app": app, "--fps": fps, "--scale": scale}
    arguments = [text for name, value in given.items() if value for text in (name, str(value))]
    result = run_script("replay", [*arguments, "--", rollout])
    if as_json:
        data_json("replay", result)
        return
    data(result["out"])
    say(f"rollout {result['rollout_id']}, seed {result['seed']}, {result['model']}: replayed as recorded")
    say(f"{result['outcome']:g}: {', '.join(result['achievements']) or 'no achievements'}")
    say(f"{result['frames']} frames, {result['size_bytes'] / 1e6:.2f} MB")
