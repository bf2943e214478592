"""Filters traces into a fine-tuning file. Needs no cluster: the CLI runs the same function in its own process.

python -m jobs.filter --config configs/quickstart/filter_weak.toml
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from synth_ray.core.errors import SynthRayError
from synth_ray.core.paths import find_home
from synth_ray.records.filter_run import run_filter


def main() -> int:
    """Filters as the config says and prints the report."""
    parser = argparse.ArgumentParser(prog="python -m jobs.filter")
    parser.add_argument("--config", type=Path, action="append", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--project", type=Path, default=None)
    arguments = parser.parse_args()
    try:
        report = run_filter(arguments.config, arguments.set, find_home(arguments.project).project)
    except SynthRayError as error:
        sys.stderr.write(f"error: {error.message}\nhint: {error.hint}\n")
        return error.exit_code
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
