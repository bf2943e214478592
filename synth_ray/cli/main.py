"""The command line: verbs, and the one boundary where errors become messages and exit codes."""

from __future__ import annotations

import signal
import sys
from types import FrameType

import click

from synth_ray import __version__
from synth_ray.cli import cluster_verbs, job_verbs, judge_verbs, quickstart_verb, status_verbs
from synth_ray.cli.output import report_error, say
from synth_ray.core.errors import SynthRayError

EPILOG = """\b
First time:       synth-ray quickstart
Step by step:     synth-ray setup; synth-ray deploy grpo-crafter; synth-ray eval grpo-crafter -c FILE
Verbs with an answer take --json; they then print one object {"schema": ..., "data": ...} or {"error": ...} on stdout.
Exit codes: 0 done, 1 failed, 2 usage, 3 prerequisite, 4 not found, 5 conflict, 6 auth, 7 corrupt, 74 disk,
75 try again, 124 timeout, 130 interrupted."""


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="synth-ray")
def cli() -> None:
    """Train LLM agents by reinforcement learning on your own machines: Ray, vLLM, PEFT, and Crafter as the world."""


for command in (
    quickstart_verb.quickstart,
    cluster_verbs.setup,
    cluster_verbs.up,
    cluster_verbs.down,
    cluster_verbs.deploy,
    job_verbs.evaluate,
    job_verbs.filter_,
    job_verbs.train,
    job_verbs.logs,
    judge_verbs.judge,
    status_verbs.status,
):
    cli.add_command(command)


def _terminated(signum: int, _: FrameType | None) -> None:
    say("terminated; stopping what this command started")
    sys.exit(128 + signum)


def main() -> None:
    """Entry point: runs the CLI and exits with the documented code."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        say("interrupted; everything that this command started is stopped")
        sys.exit(130)
    except SynthRayError as error:
        report_error(error, "--json" in sys.argv)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
