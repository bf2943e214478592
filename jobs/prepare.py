"""Prepares what is made once per machine and project: the built-in models, and the world's compiled kernels.

    python -m jobs.prepare --project .

The last step of `make install`. Every job makes what it misses by itself; having it beforehand only saves time.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from synth_ray.core.paths import find_home, numba_cache


def main() -> None:
    """Makes everything that is missing."""
    parser = argparse.ArgumentParser(prog="python -m jobs.prepare")
    parser.add_argument("--project", type=Path, default=None)
    home = find_home(parser.parse_args().project)
    # Both are read at import.
    os.environ.setdefault("NUMBA_CACHE_DIR", str(numba_cache()))
    os.environ.setdefault("TQDM_DISABLE", "1")

    from envs.registry import get_task
    from serve.models import BUILT_IN, built_in

    for name in BUILT_IN:
        built_in(name, home)
    get_task("grpo-crafter").open(0, {}, 1)


if __name__ == "__main__":
    main()
