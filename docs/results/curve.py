"""The curve of a recorded run as SVG: batch rewards by step, and the evaluations before and after.

python docs/results/curve.py docs/results/smollm2.json docs/results/smollm2.svg
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 320, 50, 120, 20, 40
INK, GRID, LINE, BEFORE, AFTER = "#333333", "#dddddd", "#1f6fb2", "#999999", "#2a8f4c"


def curve(run: dict[str, object]) -> str:
    """The drawing; dashed lines are the mean scores on held-out seeds, bands one standard error each side."""
    rewards = [float(reward) for reward in run["batch_rewards"]]  # type: ignore[attr-defined]
    scores = run["eval"]
    levels = [(name, scores[name]["mean"], scores[name]["se"]) for name in ("sft", "rl")]  # type: ignore[index]
    top = max([*rewards, *(mean + error for _, mean, error in levels)]) * 1.1

    def x(step: float) -> float:
        return LEFT + step * (WIDTH - LEFT - RIGHT) / max(1, len(rewards) - 1)

    def y(reward: float) -> float:
        return HEIGHT - BOTTOM - reward * (HEIGHT - TOP - BOTTOM) / top

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12" fill="{INK}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for tick in (tick / 2 for tick in range(int(2 * top) + 1)):
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="{GRID}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for step in range(len(rewards)):
        parts.append(f'<text x="{x(step):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{step}</text>')
    for (_, mean, error), label, colour in zip(levels, ("fine-tuned", "after RL"), (BEFORE, AFTER), strict=True):
        band = y(mean - error) - y(mean + error)
        parts += [
            f'<rect x="{LEFT}" width="{WIDTH - LEFT - RIGHT}" y="{y(mean + error):.1f}" height="{band:.1f}" '
            f'fill="{colour}" opacity="0.2"/>',
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(mean):.1f}" y2="{y(mean):.1f}" stroke="{colour}" '
            'stroke-dasharray="6 4"/>',
            f'<text x="{WIDTH - RIGHT + 8}" y="{y(mean) + 4:.1f}" fill="{colour}">{label} {mean:.2f}</text>',
        ]
    points = " ".join(f"{x(step):.1f},{y(reward):.1f}" for step, reward in enumerate(rewards))
    parts.append(f'<polyline points="{points}" fill="none" stroke="{LINE}" stroke-width="2"/>')
    parts += [
        f'<circle cx="{x(step):.1f}" cy="{y(reward):.1f}" r="3.5" fill="{LINE}"/>'
        for step, reward in enumerate(rewards)
    ]
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">RL step: mean unique achievements</text>')
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(curve(json.loads(Path(sys.argv[1]).read_text())))
