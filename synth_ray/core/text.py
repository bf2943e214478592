"""Small things about text that people read."""

from __future__ import annotations


def last_line(text: str, otherwise: str) -> str:
    """The last line of ``text`` that is not blank, which in logs and tracebacks says what happened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else otherwise
