"""How much faster CrafterWorld is than upstream's crafter.Env: ratios of CPU time, measured in turns in one process.

    python benchmarks/bench_crafter.py

Each repeat measures upstream and ours next to each other, so that a busy machine slows both; the reported ratio is the
median over repeats. Worlds are drawn from different seeds, so nothing comes out of the cache unless it says "cached".
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import crafter
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from envs.crafter.rules import ACTIONS
from envs.crafter.world import CrafterWorld

UPSTREAM_STEPS, OUR_STEPS = 1000, 20_000
UPSTREAM_RESETS, OUR_RESETS = 5, 60
REPEATS = 5


def step_seconds(env: Any, steps: int, seed: int) -> float:
    """CPU seconds per step under random actions, resets not counted."""
    actions = np.random.RandomState(seed).randint(len(ACTIONS), size=steps).tolist()
    env.reset()
    in_resets = 0.0
    started = time.process_time()
    for action in actions:
        if env.step(action)[2]:
            reset_started = time.process_time()
            env.reset()
            in_resets += time.process_time() - reset_started
    return (time.process_time() - started - in_resets) / steps


def reset_seconds(env: Any, resets: int) -> float:
    """CPU seconds per reset, a new world each time."""
    started = time.process_time()
    for _ in range(resets):
        env.reset()
    return (time.process_time() - started) / resets


def cached_reset_seconds(resets: int, seed: int) -> float:
    """CPU seconds per first reset of a seed that was played before, as in a training group."""
    CrafterWorld(seed=seed).reset()
    worlds = [CrafterWorld(seed=seed) for _ in range(resets)]
    started = time.process_time()
    for world in worlds:
        world.reset()
    return (time.process_time() - started) / resets


def measure() -> dict[str, Any]:
    """All figures: seconds per operation for both, and the medians of their ratios."""
    CrafterWorld(seed=0).reset()
    crafter.Env(seed=0).reset()
    step, step_images, reset, cached = [], [], [], []
    for repeat in range(REPEATS):
        seed = 1 + 100 * repeat
        upstream = step_seconds(crafter.Env(seed=seed), UPSTREAM_STEPS, seed)
        step.append((upstream, step_seconds(CrafterWorld(seed=seed), OUR_STEPS, seed)))
        step_images.append((upstream, step_seconds(CrafterWorld(seed=seed, images=True), UPSTREAM_STEPS, seed)))
        upstream = reset_seconds(crafter.Env(seed=seed), UPSTREAM_RESETS)
        reset.append((upstream, reset_seconds(CrafterWorld(seed=seed + 50_000), OUR_RESETS)))
        cached.append((upstream, cached_reset_seconds(OUR_RESETS, seed + 90_000)))
    return {
        "schema": "synth-ray/bench.crafter/1",
        "python": platform.python_version(),
        "machine": platform.machine(),
        "crafter": importlib.metadata.version("crafter"),
        "repeats": REPEATS,
        "clock": "process CPU time",
        "step": compare(step),
        "step_with_images": compare(step_images),
        "reset": compare(reset),
        "reset_cached": compare(cached),
    }


def compare(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """Medians of (upstream, ours) pairs, and of their ratios."""
    median: Callable[[list[float]], float] = statistics.median
    ratios = [upstream / ours for upstream, ours in pairs]
    return {
        "upstream_us": round(1e6 * median([upstream for upstream, _ in pairs]), 2),
        "ours_us": round(1e6 * median([ours for _, ours in pairs]), 2),
        "ratio": round(median(ratios), 1),
        "ratio_min": round(min(ratios), 1),
        "ratio_max": round(max(ratios), 1),
    }


def main() -> None:
    """Measures, prints a table, and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("crafter.json"), help="JSON to write")
    arguments = parser.parse_args()
    figures = measure()
    for name in ("step", "step_with_images", "reset", "reset_cached"):
        row = figures[name]
        print(
            f"{name:17} upstream {row['upstream_us']:>9.1f} us   ours {row['ours_us']:>8.1f} us   "
            f"ratio {row['ratio']:>6.1f} ({row['ratio_min']} to {row['ratio_max']})"
        )
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
