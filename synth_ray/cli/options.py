"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

F = TypeVar("F", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
config_option = click.option(
    "-c", "--config", "configs", type=click.Path(path_type=Path), multiple=True, help="TOML file; later ones win."
)
set_option = click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override, for example a.b=3.")
env_file_option = click.option(
    "--env-file", type=click.Path(path_type=Path), default=Path(".env"), show_default=True, help="Keys (mode 0600)."
)
port_option = click.option(
    "--port", type=click.IntRange(1, 65_535), default=8000, show_default=True, help="HTTP port on 127.0.0.1."
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Check and print the config; start nothing.")


def in_project(_context: click.Context, _option: click.Parameter, given: Path | None) -> Path | None:
    """For a path that a config file may hold as well: relative ones are in the project, wherever they are given."""
    from synth_ray.core.paths import find_home

    return None if given is None else find_home().project / given


def experiment_options(function: F) -> F:
    """-c, --set, --env-file, --dry-run, --json."""
    for option in (json_option, dry_run_option, env_file_option, set_option, config_option):
        function = option(function)
    return function


def was_given(parameter: str) -> bool:
    """Whether a parameter of the running command, or of the one that has invoked it, was typed: no mere default."""
    context: click.Context | None = click.get_current_context()
    while context:
        if context.get_parameter_source(parameter) is ParameterSource.COMMANDLINE:
            return True
        context = context.parent
    return False
