"""What a job says, from its files: what it prints, what it waits for, and its numbers, step by step.

Reads files only, so it works while the job runs, after it has ended, and when its cluster is gone.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synth_ray.core.paths import Home
    from synth_ray.records.registry import Job

_POLL_S = 0.5
_WAITED = re.compile(r" \(\d+ s\)$")
_SHORT = {
    "loss": "loss",
    "kl/mean": "kl",
    "mismatch_kl/mean": "mismatch kl",
    "entropy/mean": "entropy",
    "clip_ratio": "clipped",
    "optim/grad_norm": "grad",
    "invalid_turns": "unusable replies",
    "completions/mean_length": "reply tokens",
    "time/rollout": "rollouts s",
    "time/train": "update s",
}
_STREAMED = ("reward/", "judge/", "eval/")


class JobFeed:
    """New lines of one job since the last call."""

    def __init__(self, home: Home, job: Job, printed: bool = True) -> None:
        from synth_ray.records.job_files import JobFiles
        from synth_ray.records.tail import Tail
        from synth_ray.runtime.settle import run_folder

        self._files = JobFiles(home.jobs / job.job_id)
        self._events, self._training = Tail(self._files.events_path), Tail(self._files.folder / "training.jsonl")
        self._printed = Tail(self._files.log_path) if printed else None
        self._metrics = Tail(run_folder(home, job) / "metrics.jsonl") if job.type in ("rl", "sft") else None
        self._waits_for = ""

    def lines(self) -> list[str]:
        """Everything new: printed lines, then waits, then numbers."""
        printed = self._printed.lines() if self._printed else []
        waits = [text for event in _parsed(self._events.lines()) if (text := self._wait(event))]
        numbers = [step_line(row) for row in _parsed(self._metrics.lines())] if self._metrics else []
        return [*printed, *waits, *numbers, *(fit_line(row) for row in _parsed(self._training.lines()))]

    def rest(self) -> str:
        """The end of what was printed, if it lacks its line end."""
        return self._printed.rest() if self._printed else ""

    def _wait(self, event: Mapping[str, Any]) -> str:
        if event.get("stage") not in ("wait", "connect"):
            return ""
        what = _WAITED.sub("", str(event.get("note", "")))
        new = what if what != self._waits_for else ""
        self._waits_for = what
        return f"waits for {new}" if new else ""


def step_line(row: Mapping[str, Any]) -> str:
    """One RL step: its reward with its parts, judges if there are any, and how the update went."""
    reward = f"reward {_number(row.get('reward/mean'))}"
    if row.get("reward/std") is not None:
        reward += f" +- {_number(row['reward/std'])}"
    shown = ("reward/mean", "reward/std", "reward/min", "reward/max")
    parts = [f"{key} {_number(row[key])}" for key in row if key.startswith(_STREAMED) and key not in shown]
    rest = [f"{name} {_number(row[key])}" for key, name in _SHORT.items() if key in row]
    return "  ".join([f"step {row.get('step')}", reward, *parts, *rest])


def fit_line(row: Mapping[str, Any]) -> str:
    """One step of fine-tuning."""
    return f"step {row.get('step')}/{row.get('total')}  loss {_number(row.get('loss'))}"


def follow(home: Home, job_id: str, say_line: Callable[[str], None]) -> Job:
    """Passes on every new line until the job has ended; returns its record."""
    from synth_ray.records.registry import Registry
    from synth_ray.runtime.settle import Settler

    with Registry(home.state_db, read_only=True) as registry:
        feed = JobFeed(home, registry.job(job_id))
        settler = Settler()
        while True:
            settler.settle(home)
            job = registry.job(job_id)  # before the files: what it wrote before it ended is then read
            for line in feed.lines():
                say_line(line)
            if job.status.final:
                if rest := feed.rest():
                    say_line(rest)
                return job
            time.sleep(_POLL_S)


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else "-"


def _parsed(lines: list[str]) -> list[dict[str, Any]]:
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows
