"""Wall-clock time as text. For people only: nothing is ordered or timed by it, because clocks jump."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now() -> str:
    """Now in UTC, ISO 8601 with milliseconds: ``2026-11-22T01:30:00.000Z``."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
