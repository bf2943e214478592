"""Small things about text that people read."""

from __future__ import annotations

import re

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """``text`` without characters that steer a terminal or reorder text; line breaks and tabs stay."""
    return _CONTROL.sub("", text)


def last_line(text: str, otherwise: str) -> str:
    """The last line of ``text`` that is not blank, which in logs and tracebacks says what happened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else otherwise
