"""quickstart: the whole pipeline, stage by stage; every stage is what its verb runs."""

from __future__ import annotations

from pathlib import Path

import click

from synth_ray.cli import options
from synth_ray.cli.starts import STARTS


@click.command()
@click.option("--seed", type=click.IntRange(0, 10_000), default=0, show_default=True, help="Data, SFT and RL seed.")
@click.option("--start", type=click.Choice(list(STARTS)), default="weak", show_default=True, help="SFT start.")
@click.option("--steps", type=click.IntRange(1, 1000), help="RL steps, if not those of the start's config.")
@click.option("--run-name", default="", help="Name of the RL run; made from the time if absent.")
@click.option("--keep", is_flag=True, help="Leave the cluster running at the end.")
@options.set_option
@options.env_file_option
@options.port_option
@options.json_option
def quickstart(
    seed: int,
    start: str,
    steps: int | None,
    run_name: str,
    keep: bool,
    sets: tuple[str, ...],
    env_file: Path,
    port: int,
    as_json: bool,
) -> None:
    """Run the whole pipeline for real, on this machine, in minutes.

    Teacher rollouts, filter, fine-tuning, evaluation, 10 RL steps with LoRA, evaluation. --start weak teaches little
    more than the reply format, so that RL has everything to learn; --start strong begins from a good fine-tune;
    --start smollm2 takes a real language model and an hour and a half (`make smollm2` gets it first). --set changes
    the RL config.

    \b
    synth-ray quickstart
    synth-ray quickstart --seed 3 --json
    """
    from synth_ray.cli.quickstart import Choices, run_quickstart

    run_quickstart(Choices(seed, STARTS[start], steps, run_name, keep, sets, env_file, port, as_json))
