"""--watch: the same answer again and again, in place."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import click

DEFAULT_S = 2.0

watch_option = click.option(
    "-w",
    "--watch",
    type=click.FloatRange(0.1),
    is_flag=False,
    flag_value=DEFAULT_S,
    metavar="[SECONDS]",
    help="Show it again every SECONDS (2); Ctrl-C ends it with exit code 0.",
)


def watched(show: Callable[[], None], every_s: float | None) -> None:
    """Shows once, or again and again until Ctrl-C."""
    if every_s is None:
        show()
        return
    try:
        while True:
            if sys.stdout.isatty():
                sys.stdout.write("\x1b[H\x1b[2J")
            show()
            time.sleep(every_s)
    except KeyboardInterrupt:
        return
