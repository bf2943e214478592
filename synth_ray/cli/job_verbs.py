"""eval, filter, train, logs: experiments as jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from synth_ray.cli import options
from synth_ray.cli.judge_verbs import agreement_lines
from synth_ray.cli.output import clean, data, data_json, say, scores_table


@click.command("eval")
@click.argument("app_id", required=False)
@options.experiment_options
@click.option("--trace-db", type=click.Path(path_type=Path), help="SQLite file for the traces.")
@click.option("--model", help="Model id, built-in name, folder, hub id, or a teacher's name.")
@click.option("--seeds", help='For example "0-9,20".')
def evaluate(
    app_id: str | None,
    configs: tuple[Path, ...],
    sets: tuple[str, ...],
    env_file: Path,
    dry_run: bool,
    as_json: bool,
    trace_db: Path | None,
    model: str | None,
    seeds: str | None,
) -> None:
    """Let a model or a teacher play seeds; keep every trace; print the scores.

    \b
    synth-ray eval grpo-crafter -c configs/quickstart/eval.toml --model fft:crafter-tiny:job_...
    synth-ray eval grpo-crafter -c configs/quickstart/collect_weak.toml --trace-db traces/mine.db
    """
    from synth_ray.cli.progress import Stages
    from synth_ray.cli.verbs import check_config, client, run
    from synth_ray.core.paths import find_home
    from synth_ray.core.sections import EvalConfig

    given = {"app_id": app_id, "trace_db": trace_db and str(trace_db.resolve()), "model": model, "seeds": seeds}
    all_sets = [*sets, *(f'eval.{key}="{value}"' for key, value in given.items() if value)]
    if not check_config(EvalConfig, configs, all_sets, dry_run):
        return
    with Stages().stage("eval", "rollouts through the task app") as on_event:
        result = run(client(find_home(), env_file), "eval", configs, all_sets, on_event=on_event)
    if as_json:
        data_json("eval", result)
    else:
        data(scores_table([result]))
        for name, report in result["judges"].items():
            say(f"judge {name}: mean {'-' if report['mean_score'] is None else format(report['mean_score'], '.3f')}")
            for line in agreement_lines(report):
                say(f"  {line}")
        say(f"traces: {result['trace_db']}")


@click.command("filter")
@options.config_option
@options.set_option
@options.json_option
def filter_(configs: tuple[Path, ...], sets: tuple[str, ...], as_json: bool) -> None:
    """Filter traces into a fine-tuning file.

    \b
    synth-ray filter -c configs/quickstart/filter_weak.toml
    """
    from synth_ray.cli.verbs import run_filter
    from synth_ray.core.paths import find_home

    report = run_filter(find_home(), configs, sets)
    if as_json:
        data_json("filter", report)
        return
    data(str(report["output"]))
    say(f"{report['lines']} lines of {report['episodes_kept']} episodes; dropped: {report['dropped'] or 'none'}")


@click.command()
@click.argument("kind", required=False, type=click.Choice(["sft", "rl"]))
@click.option("--type", "type_", type=click.Choice(["sft", "rl"]), help="What to train; the same as the argument.")
@options.experiment_options
@click.option("--run-name", default="", help="Name of the run and its folder.")
@click.option("--resume", is_flag=True, help="Go on with the run of that name after its last checkpoint (rl).")
@click.option("--poll/--no-poll", default=True, help="Wait for the result, or return at once.")
def train(
    kind: str | None,
    type_: str | None,
    configs: tuple[Path, ...],
    sets: tuple[str, ...],
    env_file: Path,
    dry_run: bool,
    as_json: bool,
    run_name: str,
    resume: bool,
    poll: bool,
) -> None:
    """Fine-tune (sft) or train by reinforcement learning (rl).

    \b
    synth-ray train --type sft -c configs/quickstart/sft_weak.toml
    synth-ray train --type rl -c configs/quickstart/rl_weak.toml --set model.source=fft:crafter-tiny:job_...
    """
    from synth_ray.cli.progress import Stages
    from synth_ray.cli.verbs import check_config, client, run
    from synth_ray.core.paths import find_home, safe_name
    from synth_ray.core.sections import RLConfig, SFTConfig

    wanted = type_ or kind
    if wanted is None or (kind and type_ and kind != type_):
        raise click.UsageError("say what to train: --type sft or --type rl")
    if not check_config(RLConfig if wanted == "rl" else SFTConfig, configs, sets, dry_run):
        return
    if run_name:
        safe_name(run_name)
    if resume and not (run_name and wanted == "rl"):
        raise click.UsageError("--resume needs --type rl and --run-name")
    jobs = client(find_home(), env_file)
    if not poll:
        job = jobs.submit(wanted, configs, sets, run_name, resume=resume)
        _submitted(job.job_id, as_json)
        return
    with Stages().stage(f"train {wanted}", "submitted") as on_event:
        result = run(jobs, wanted, configs, sets, run_name, on_event, resume)
    _trained(result, as_json)


@click.command()
@click.argument("job_id")
@options.env_file_option
def logs(job_id: str, env_file: Path) -> None:
    """Print what a job has printed.

    \b
    synth-ray logs job_0123456789abcdef
    """
    from synth_ray.cli.verbs import client
    from synth_ray.core.paths import find_home
    from synth_ray.records.registry import Registry

    home = find_home()
    with Registry(home.state_db) as registry:
        registry.job(job_id)
    data(clean(client(home, env_file).logs(job_id)))


def _submitted(job_id: str, as_json: bool) -> None:
    if as_json:
        data_json("train", {"job_id": job_id})
        return
    data(job_id)
    say(f"Useful commands: synth-ray status jobs, synth-ray logs {job_id}, synth-ray status models")


def _trained(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        data_json("train", result)
        return
    if "batch_rewards" in result:
        say(f"All batch rewards: {result['batch_rewards']}")
        say(f"run: {result['run_dir']}")
    data(result["model"])
