"""The command line: verbs, and the one boundary where errors become messages and exit codes."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

import click

from synth_ray import __version__
from synth_ray.cli import (
    cluster_verbs,
    file_verbs,
    job_verbs,
    judge_verbs,
    modal_serve_verb,
    quickstart_verb,
    replay_verb,
    setup_verb,
    status_verbs,
    trace_verbs,
    train_verbs,
)
from synth_ray.cli.output import report_error, say
from synth_ray.core.errors import ConfigError, StorageError, SynthRayError

EPILOG = """\b
First time:       synth-ray quickstart
Step by step:     synth-ray setup; synth-ray deploy grpo-crafter; synth-ray eval grpo-crafter -c FILE
Verbs with an answer take --json; they then print one object {"schema": ..., "data": ...} or {"error": ...} on stdout.
Exit codes: 0 done, 1 failed, 2 usage, 3 prerequisite, 4 not found, 5 conflict, 6 auth, 7 corrupt, 74 file or disk,
75 try again, 124 timeout, 130 interrupted."""


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="synth-ray")
def cli() -> None:
    """Train LLM agents by reinforcement learning on your own machines: Ray, vLLM, PEFT, and Crafter as the world."""


for command in (
    quickstart_verb.quickstart,
    setup_verb.setup,
    cluster_verbs.up,
    cluster_verbs.down,
    cluster_verbs.deploy,
    job_verbs.evaluate,
    job_verbs.filter_,
    job_verbs.train,
    train_verbs.logs,
    judge_verbs.judge,
    status_verbs.status,
    trace_verbs.traces,
    replay_verb.replay,
    file_verbs.files,
    modal_serve_verb.modal_serve,
):
    cli.add_command(command)


def _terminated(signum: int, _: FrameType | None) -> None:
    say("terminated; stopping what this command started")
    sys.exit(128 + signum)


def main() -> None:
    """Entry point: runs the CLI and exits with the documented code."""
    signal.signal(signal.SIGTERM, _terminated)
    as_json = "--json" in sys.argv
    try:
        cli(prog_name="synth-ray", standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        if as_json:
            report_error(ConfigError(error.format_message()), as_json)
        else:
            error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        say("interrupted; everything that this command started is stopped")
        sys.exit(130)
    except BrokenPipeError:  # whoever read our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        report_error(StorageError.of(error), as_json)
        sys.exit(StorageError.exit_code)
    except SynthRayError as error:
        report_error(error, as_json)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
