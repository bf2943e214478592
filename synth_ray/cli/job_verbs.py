"""eval, filter, train: experiments as jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from synth_ray.cli import eval_verbs, options, train_verbs
from synth_ray.cli.groups import default_group
from synth_ray.cli.judge_verbs import agreement_lines
from synth_ray.cli.output import data, data_json, failure_notice, say, scores_table, table
from synth_ray.cli.train_verbs import check_name_is_free


@click.command("eval")
@click.argument("app_id", required=False)
@options.experiment_options
@click.option(
    "--trace-db", type=click.Path(path_type=Path), callback=options.in_project, help="SQLite file for the traces."
)
@click.option("--model", help="Model id, built-in name, folder, hub id, or a teacher's name.")
@click.option("--seeds", help='For example "0-9,20".')
@click.option("--concurrency", type=click.IntRange(1), help="Episodes at a time.")
@click.option("--resume", metavar="JOB", help="Go on with this evaluation; its finished rollouts are kept.")
def evaluate_one(
    app_id: str | None,
    configs: tuple[Path, ...],
    sets: tuple[str, ...],
    env_file: Path,
    dry_run: bool,
    as_json: bool,
    trace_db: Path | None,
    model: str | None,
    seeds: str | None,
    concurrency: int | None,
    resume: str | None,
) -> None:
    """Let a model or a teacher play seeds; keep every trace; print the scores.

    \b
    synth-ray eval grpo-crafter -c configs/quickstart/eval.toml --model fft:crafter-tiny:job_...
    synth-ray eval grpo-crafter -c configs/quickstart/collect_weak.toml --trace-db traces/mine.db
    synth-ray eval --resume job_0123456789abcdef
    """
    from synth_ray.cli.eval_verbs import resumed
    from synth_ray.cli.progress import Stages
    from synth_ray.cli.verbs import check_config, client, run
    from synth_ray.core.config import set_text
    from synth_ray.core.paths import find_home
    from synth_ray.core.sections import EvalConfig

    home, eval_id = find_home(), ""
    if resume:
        eval_id, configs = resumed(home, resume, configs)
    given = {"app_id": app_id, "trace_db": trace_db, "model": model, "seeds": seeds}
    all_sets = [*sets, *(set_text(f"eval.{key}", value) for key, value in given.items() if value)]
    all_sets += [f"eval.concurrency={concurrency}"] if concurrency else []
    if not check_config(EvalConfig, configs, all_sets, dry_run, as_json):
        return
    with Stages().stage("eval", "rollouts through the task app") as on_event:
        jobs = client(home, env_file)
        result = run(jobs, "eval", configs, all_sets, eval_id, on_event, resume=bool(eval_id))
    if as_json:
        data_json("eval", result)
    else:
        data(scores_table([result]))
        if notice := failure_notice(result):
            say(notice)
        for name, report in result["judges"].items():
            say(f"judge {name}: mean {'-' if report['mean_score'] is None else format(report['mean_score'], '.3f')}")
            for line in agreement_lines(report):
                say(f"  {line}")
        say(f"traces: {result['trace_db']}")
        say(f"compare with another one: synth-ray eval diff OTHER {result['job_id']}")


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
    for warning in report["warnings"]:
        say(f"warning: {warning}")
    data(str(report["output"]))
    say(f"{report['lines']} lines of {report['episodes_kept']} episodes; {report['episodes_read']} were read")
    counts = [("episodes", report["dropped"]), ("turns", report["dropped_turns"])]
    rows = [(rule, count, what) for what, dropped in counts for rule, count in dropped.items()]
    if rows:
        say(table(("dropped by", "count", "of"), rows, right=("count",)))


@click.command("train")
@click.argument("kind", required=False, type=click.Choice(["sft", "rl"]))
@click.option("--type", "type_", type=click.Choice(["sft", "rl"]), help="What to train; the same as the argument.")
@options.experiment_options
@click.option("--dataset", metavar="FILE", help="What is learned (sft): a JSONL file, or the id of an upload.")
@click.option("--run-name", default="", help="Name of the run and its folder.")
@click.option("--resume", default="", metavar="RUN", help="Go on with this run (or job) after its last checkpoint.")
@click.option("--poll/--no-poll", default=True, help="Wait for the result, or return at once.")
def train_one(
    kind: str | None,
    type_: str | None,
    configs: tuple[Path, ...],
    sets: tuple[str, ...],
    env_file: Path,
    dry_run: bool,
    as_json: bool,
    dataset: str | None,
    run_name: str,
    resume: str,
    poll: bool,
) -> None:
    """Fine-tune (sft) or train by reinforcement learning (rl).

    \b
    synth-ray train --type sft -c configs/quickstart/sft_weak.toml --dataset ft_data/train.jsonl
    synth-ray train --type rl -c configs/quickstart/rl_weak.toml --set model.source=fft:crafter-tiny:job_...
    synth-ray train --type rl --resume my-run
    """
    from synth_ray.cli.progress import Stages
    from synth_ray.cli.verbs import check_config, client, run, streamed
    from synth_ray.core.paths import find_home
    from synth_ray.core.sections import RLConfig
    from synth_ray.core.sft_sections import SFTConfig

    wanted = type_ or kind
    if wanted is None or (kind and type_ and kind != type_):
        raise click.UsageError("say what to train: --type sft or --type rl")
    home = find_home()
    if dataset and wanted == "rl":
        raise click.UsageError("--dataset is for --type sft; reinforcement learning plays its own data")
    if resume:
        if configs or sets or run_name or dataset:
            raise click.UsageError(
                "--resume takes the saved configuration and name; leave out -c, --set, --run-name, --dataset"
            )
        run_name, configs = train_verbs.saved_run(home, resume, wanted)
    sets = (*sets, *_dataset_sets(dataset))
    if not check_config(RLConfig if wanted == "rl" else SFTConfig, configs, sets, dry_run, as_json):
        return
    if run_name:
        check_name_is_free(home, run_name, bool(resume))
    jobs = client(home, env_file)
    if not poll:
        job = jobs.submit(wanted, configs, sets, run_name, resume=bool(resume))
        _submitted(job.job_id, run_name, as_json)
        return
    stages = Stages()
    with stages.stage(f"train {wanted}", "submitted") as on_event:
        show = streamed(home, stages, f"train {wanted}", on_event)
        result = run(jobs, wanted, configs, sets, run_name, resume=bool(resume), watched=show)
    _trained(result, as_json)


def _dataset_sets(dataset: str | None) -> tuple[str, ...]:
    """``--dataset`` as overrides: both spellings of the key, since two that differ would be a contradiction."""
    from synth_ray.core.config import set_text
    from synth_ray.core.errors import NotFoundError
    from synth_ray.records.uploads import is_file_id

    if not dataset:
        return ()
    if not is_file_id(dataset):
        if not Path(dataset).is_file():
            raise NotFoundError(f"no data set {dataset!r}", "make one with: synth-ray filter --config FILE")
        dataset = str(Path(dataset).resolve())
    return tuple(set_text(key, dataset) for key in ("job.data", "job.data_path"))


def _submitted(job_id: str, run_name: str, as_json: bool) -> None:
    name = run_name or job_id
    if as_json:
        data_json("train", {"job_id": job_id, "name": name})
        return
    data(job_id)
    say(f"Useful commands: synth-ray train logs --run-name {name} -f; synth-ray train wait {name}")


train = default_group(train_one, "train", train_verbs.train_logs, train_verbs.train_wait)
evaluate = default_group(evaluate_one, "eval", eval_verbs.diff)


def _trained(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        data_json("train", result)
        return
    if "batch_rewards" in result:
        say(f"All batch rewards: {result['batch_rewards']}")
        say(f"run: {result['run_dir']}")
    data(result["model"])
