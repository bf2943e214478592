"""What a job tells its watcher: what it prints, a log of events, and one result.

Plain files, so that they outlive the cluster.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from synth_ray.records.disk import write_atomic

_THROTTLE_S = 0.5
_TAIL_BYTES = 4096


class JobFiles:
    """The folder of one job: ``log.txt`` and ``events.jsonl`` grow, ``result.json`` appears whole at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._said = ("", "")
        self._at = 0.0

    @property
    def events_path(self) -> Path:
        """One JSON object per line."""
        return self.folder / "events.jsonl"

    @property
    def result_path(self) -> Path:
        """``{"ok": true, "result": ...}`` or ``{"ok": false, "error": ..., "exit_code": ...}``."""
        return self.folder / "result.json"

    @property
    def log_path(self) -> Path:
        """What the job has printed."""
        return self.folder / "log.txt"

    @property
    def config_path(self) -> Path:
        """The resolved configuration."""
        return self.folder / "config.resolved.json"

    @property
    def cluster_id(self) -> str:
        """The local cluster that the job was submitted to; empty if it came another way."""
        path = self.folder / "cluster"
        return path.read_text(encoding="utf-8").strip() if path.exists() else ""

    def submitted_to(self, cluster_id: str) -> None:
        """Notes the cluster, so that it is known that the job ended when the cluster did."""
        write_atomic(self.folder / "cluster", cluster_id)

    @property
    def project(self) -> Path | None:
        """The project folder that it began in; None if it has not begun."""
        path = self.folder / "project"
        return Path(path.read_text(encoding="utf-8")) if path.exists() else None

    def began_in(self, project: Path) -> None:
        """Notes the project folder, because relative paths of the configuration are in it."""
        write_atomic(self.folder / "project", str(project))

    def take_output(self) -> None:
        """From now on this process and its children print into ``log_path``."""
        sys.stdout.write(f"printing into {self.log_path}\n")
        sys.stdout.flush()
        descriptor = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        os.close(descriptor)

    def event(self, stage: str, done: int = 0, total: int = 0, note: str = "") -> None:
        """Says where the job is; ``note`` is what it waits for. Mere counting is thinned out."""
        if (stage, note) == self._said and done != total and time.monotonic() - self._at < _THROTTLE_S:
            return
        self._said, self._at = (stage, note), time.monotonic()
        line = {"t": time.time(), "stage": stage, "done": done, "total": total, "note": note}
        with self.events_path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")

    def succeeded(self, result: Mapping[str, Any]) -> None:
        """The job's result."""
        write_atomic(self.result_path, json.dumps({"ok": True, "result": dict(result)}))

    def failed(self, error: Mapping[str, Any], exit_code: int) -> None:
        """Why the job failed."""
        write_atomic(self.result_path, json.dumps({"ok": False, "error": dict(error), "exit_code": exit_code}))

    def result(self) -> dict[str, Any] | None:
        """What the job left, or None while it runs."""
        if not self.result_path.exists():
            return None
        return dict(json.loads(self.result_path.read_text(encoding="utf-8")))

    def last_event(self) -> dict[str, Any] | None:
        """The newest whole event."""
        if not self.events_path.exists():
            return None
        with self.events_path.open("rb") as log:
            log.seek(max(0, log.seek(0, 2) - _TAIL_BYTES))
            tail = log.read().splitlines()
        for line in reversed(tail):
            try:
                return dict(json.loads(line))
            except ValueError:  # The last line may be half-written, the first one cut.
                continue
        return None
