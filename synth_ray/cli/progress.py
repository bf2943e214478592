"""Progress of stages that may run side by side: one live line on a terminal, sparse lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from synth_ray.cli.output import clean

_QUIET_S = 10.0
_NAME_WIDTH = 22
_LINE_WIDTH = 150


class Stages:
    """``seconds`` holds how long each finished stage took, ``ended_s`` when it ended, since the first was begun."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.ended_s: dict[str, float] = {}
        self._begun = time.monotonic()
        self._live: dict[str, str] = {}
        self._printed: dict[str, float] = {}
        self._lock = threading.Lock()
        self._tty = sys.stderr.isatty()

    @contextmanager
    def stage(self, name: str, what: str) -> Iterator[Callable[[Mapping[str, Any]], None]]:
        """A stage with its own clock; yields a function that takes a job's events."""
        started = time.monotonic()
        self.line(name, what)
        try:
            yield lambda event: self.update(name, event)
        except BaseException:
            self._forget(name)
            self.line(name, f"stopped after {time.monotonic() - started:.1f} s")
            raise
        self._forget(name)
        self.seconds[name] = round(time.monotonic() - started, 1)
        self.ended_s[name] = round(time.monotonic() - self._begun, 1)
        self.line(name, f"done in {self.seconds[name]:.1f} s")

    def update(self, name: str, event: Mapping[str, Any]) -> None:
        """Shows where a stage is, and what it waits for."""
        counted = f"{event['done']}/{event['total']} " if event.get("total") else ""
        verb = "waits for " if event.get("stage") in ("wait", "connect") else ""
        text = f"{counted}{verb}{event.get('note', '')}"
        with self._lock:
            self._live[name] = text
            if self._tty:
                self._draw()
            elif time.monotonic() - self._printed.get(name, 0.0) > _QUIET_S:
                self._print(name, text)

    def line(self, name: str, text: str) -> None:
        """A line that stays."""
        with self._lock:
            self._print(name, text)
            if self._tty:
                self._draw()

    def _forget(self, name: str) -> None:
        with self._lock:
            self._live.pop(name, None)

    def _print(self, name: str, text: str) -> None:
        self._printed[name] = time.monotonic()
        erase = "\r\x1b[2K" if self._tty else ""
        stamp = f"[{time.monotonic() - self._begun:6.1f} s]"
        sys.stderr.write(f"{erase}{stamp} {name:<{_NAME_WIDTH}} {clean(text)}\n")
        sys.stderr.flush()

    def _draw(self) -> None:
        live = " | ".join(f"{name}: {text}" for name, text in self._live.items())
        sys.stderr.write("\r\x1b[2K" + clean(live)[:_LINE_WIDTH])
        sys.stderr.flush()
