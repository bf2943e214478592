"""modal-serve: the name that other programs have for `deploy`."""

from __future__ import annotations

from pathlib import Path

import click

from synth_ray.cli import options
from synth_ray.cli.cluster_verbs import deploy
from synth_ray.cli.output import say


@click.command("modal-serve")
@click.argument("app_id", default="grpo-crafter")
@click.option("--name", default="", help="Accepted as a label; the URL is made from the task's own name.")
@click.option("--modal-cli", default="", help="Accepted; Modal is not used.")
@options.env_file_option
@options.port_option
@click.pass_context
def modal_serve(context: click.Context, app_id: str, name: str, modal_cli: str, env_file: Path, port: int) -> None:
    """The same as `deploy`: nothing goes to Modal, the app runs on Ray Serve on this machine.

    \b
    synth-ray modal-serve grpo-crafter --env-file .env
    """
    say("modal-serve: nothing goes to Modal; this deploys on the local Ray cluster, like `synth-ray deploy`")
    if modal_cli:
        say(f"--modal-cli {modal_cli} has no meaning here")
    context.invoke(deploy, app_id=app_id, name=name, env_file=env_file, port=port)
