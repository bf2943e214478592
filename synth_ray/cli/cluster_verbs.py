"""up, down, deploy: the local cluster, and what runs on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from synth_ray.cli import options
from synth_ray.cli.output import data, data_json, say
from synth_ray.cli.verbs import serve_locally
from synth_ray.core.errors import ConfigError

_HERE = {
    "modal": "--runtime modal: nothing goes to Modal; this deploys on the local Ray cluster, like --runtime serve",
    "ray": "--runtime ray is --runtime serve: Ray Serve on the local Ray cluster",
}


@click.command()
@options.env_file_option
@options.port_option
def up(env_file: Path, port: int) -> None:
    """Start the local Ray head (loopback, token authentication), if it is not running."""
    from synth_ray.cli.verbs import ensure_cluster
    from synth_ray.core.paths import find_home

    cluster, new = ensure_cluster(find_home(), env_file, port)
    say(f"{'started' if new else 'already running:'} Ray at {cluster.address}, dashboard {cluster.dashboard}")
    _tell_the_port(port, cluster.http_port)
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
    type=click.Choice(["serve", "uvicorn", "ray", "modal"]),
    default="serve",
    show_default=True,
    help="Ray Serve with an engine (ray and modal mean the same), or one uvicorn process without Ray and engine.",
)
@click.option("--name", default="", help="Accepted as a label; the URL is made from the task's own name.")
@click.option("--modal-mode", default="", help="Accepted; Modal is not used.")
@click.option("--model", default=None, help="What the engine loads first; empty for no engine.")
@click.option(
    "--trace",
    metavar="DIR",
    type=click.Path(path_type=Path),
    callback=options.in_project,
    help="Keep rollouts in DIR/rollouts.db (uvicorn only).",
)
@click.option(
    "--trace-db",
    metavar="FILE",
    type=click.Path(path_type=Path),
    callback=options.in_project,
    help="Keep rollouts in FILE (same).",
)
@options.set_option
@options.config_option
@options.env_file_option
@options.port_option
@options.json_option
def deploy(
    app_id: str,
    runtime: str,
    name: str,
    modal_mode: str,
    model: str | None,
    trace: Path | None,
    trace_db: Path | None,
    sets: tuple[str, ...],
    configs: tuple[Path, ...],
    env_file: Path,
    port: int,
    as_json: bool,
) -> None:
    """Deploy a task app and the policy on Ray Serve; starts a local cluster if none is running.

    A running task app is replaced if its keys, or the file of a task of your own, have changed. With --runtime uvicorn:
    the same task app for teachers and remote models, without Ray, until Ctrl-C.

    \b
    synth-ray deploy grpo-crafter
    synth-ray deploy grpo-crafter --runtime uvicorn --port 8001 --trace traces/http
    synth-ray deploy grpo-crafter --model fft:crafter-tiny:job_0123456789abcdef
    """
    from synth_ray.core.config import set_text

    _tell_what_it_is_here(runtime, name, modal_mode)
    if runtime == "uvicorn":
        if model or configs or sets:
            raise ConfigError("--runtime uvicorn has no engine: --model, -c and --set are for --runtime serve")
        if trace and trace_db:
            raise ConfigError("--trace and --trace-db both say where rollouts go", "give one of them")
        serve_locally(app_id, env_file, port, trace / "rollouts.db" if trace else trace_db, as_json)
    if trace or trace_db:
        raise ConfigError(
            "--trace and --trace-db are for --runtime uvicorn",
            "leave them out; evaluations keep every rollout: synth-ray eval --trace-db FILE",
        )
    given = [*sets, set_text("app_id", app_id), *([set_text("model", model)] if model is not None else [])]
    result = _deployed(app_id, configs, given, env_file, port)
    if as_json:
        data_json("deploy", result)
    else:
        say("Task app URL (send your ENVIRONMENT_API_KEY as X-API-Key):")
        data(result["url"])
        if "gateway" in result:
            say(f"OpenAI base URL of every model (send the same key): {result['gateway']}")
        say("Useful commands: synth-ray eval grpo-crafter -c FILE, synth-ray status jobs, synth-ray down")


def _deployed(
    app_id: str, configs: tuple[Path, ...], given: Sequence[str], env_file: Path, port: int
) -> dict[str, Any]:
    """The result of the deploy job; a cluster that was started for it ends with its failure."""
    from synth_ray.cli.progress import Stages
    from synth_ray.cli.verbs import check_config, client, ensure_cluster, run
    from synth_ray.core.paths import find_home
    from synth_ray.core.sections import DeployConfig
    from synth_ray.runtime.cluster import stop

    check_config(DeployConfig, configs, given, dry_run=False)
    home, stages = find_home(), Stages()
    with stages.stage("cluster", "the local Ray head"):
        cluster, new = ensure_cluster(home, env_file, port)
    _tell_the_port(port, cluster.http_port)
    try:
        with stages.stage("deploy", f"{app_id} and its policy") as on_event:
            return run(client(home, env_file), "deploy", configs, given, on_event=on_event)
    except BaseException:
        if new:
            stop(home)
        raise


def _tell_what_it_is_here(runtime: str, name: str, modal_mode: str) -> None:
    if runtime in _HERE:
        say(_HERE[runtime])
    if modal_mode:
        say(f"--modal-mode {modal_mode} has no meaning here")
    if name:
        say(f"--name {name} is only a label here: the URL is made from the task's own name")


def _tell_the_port(asked: int, used: int) -> None:
    """A running cluster keeps its port, which would go unnoticed if another one was asked for."""
    if asked != used and options.was_given("port"):
        say(f"warning: --port {asked} is ignored: the running cluster serves HTTP on port {used}")
        say(f"to change it: synth-ray down, then the same command with --port {asked}")
