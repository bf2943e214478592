"""up, down, deploy: the local cluster, and what runs on it."""

from __future__ import annotations

from pathlib import Path

import click

from synth_ray.cli import options
from synth_ray.cli.output import data, data_json, say
from synth_ray.cli.verbs import serve_locally
from synth_ray.core.errors import ConfigError


@click.command()
@options.env_file_option
@options.port_option
def up(env_file: Path, port: int) -> None:
    """Start the local Ray head (loopback, token authentication), if it is not running."""
    from synth_ray.cli.verbs import ensure_cluster
    from synth_ray.core.paths import find_home

    cluster, new = ensure_cluster(find_home(), env_file, port)
    say(f"{'started' if new else 'already running:'} Ray at {cluster.address}, dashboard {cluster.dashboard}")
    say("stop it with: synth-ray down")


@click.command()
def down() -> None:
    """Stop the local cluster and everything that runs on it."""
    from synth_ray.core.paths import find_home
    from synth_ray.runtime.cluster import stop

    count = stop(find_home())
    say(f"stopped {count} processes" if count else "nothing was running")


@click.command()
@click.argument("app_id", default="grpo-crafter")
@click.option(
    "--runtime",
    type=click.Choice(["serve", "uvicorn"]),
    default="serve",
    show_default=True,
    help="Ray Serve with an engine, or one uvicorn process in the foreground without Ray and engine.",
)
@click.option("--model", default=None, help="What the engine loads first; empty for no engine.")
@click.option(
    "--trace",
    metavar="DIR",
    type=click.Path(path_type=Path),
    callback=options.in_project,
    help="Keep rollouts in DIR/rollouts.db (uvicorn only).",
)
@options.set_option
@options.config_option
@options.env_file_option
@options.port_option
@options.json_option
def deploy(
    app_id: str,
    runtime: str,
    model: str | None,
    trace: Path | None,
    sets: tuple[str, ...],
    configs: tuple[Path, ...],
    env_file: Path,
    port: int,
    as_json: bool,
) -> None:
    """Deploy a task app and the policy on Ray Serve; starts a local cluster if none is running.

    With --runtime uvicorn: the same task app for teachers and remote models, without Ray, until Ctrl-C.

    \b
    synth-ray deploy grpo-crafter
    synth-ray deploy grpo-crafter --runtime uvicorn --port 8001 --trace traces/http
    synth-ray deploy grpo-crafter --model fft:crafter-tiny:job_0123456789abcdef
    """
    if runtime == "uvicorn":
        if model or configs or sets:
            raise ConfigError("--runtime uvicorn has no engine: --model, -c and --set are for --runtime serve")
        serve_locally(app_id, env_file, port, trace, as_json)
    if trace:
        raise ConfigError(
            "--trace is for --runtime uvicorn", "evaluations keep every rollout: synth-ray eval --trace-db"
        )
    from synth_ray.cli.progress import Stages
    from synth_ray.cli.verbs import check_config, client, ensure_cluster, run
    from synth_ray.core.paths import find_home
    from synth_ray.core.sections import DeployConfig
    from synth_ray.runtime.cluster import stop

    given = [*sets, f"app_id={app_id}", *([f"model={model}"] if model is not None else [])]
    check_config(DeployConfig, configs, given, dry_run=False)
    home, stages = find_home(), Stages()
    with stages.stage("cluster", "the local Ray head"):
        _, new = ensure_cluster(home, env_file, port)
    try:
        with stages.stage("deploy", f"{app_id} and its policy") as on_event:
            result = run(client(home, env_file), "deploy", configs, given, on_event=on_event)
    except BaseException:
        if new:
            stop(home)
        raise
    if as_json:
        data_json("deploy", result)
    else:
        say("Task app URL (send your ENVIRONMENT_API_KEY as X-API-Key):")
        data(result["url"])
        if "gateway" in result:
            say(f"OpenAI base URL of every model (send the same key): {result['gateway']}")
        say("Useful commands: synth-ray eval grpo-crafter -c FILE, synth-ray status jobs, synth-ray down")
