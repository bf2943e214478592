"""What other servers say, made fit for traces and messages: without keys, control characters and length."""

from __future__ import annotations

import functools
import re
from typing import Any

_MAX_CHARS = 300
_PIECE = 8
_KEY_SHAPE = re.compile(r"(?:\b(?:sk|gsk|hf|xai|pk)[-_]|Bearer\s+)[A-Za-z0-9*._\-]{6,}")
_WORD = re.compile(rf"[^\s\"'<>,;(){{}}\[\]]{{{_PIECE},}}")
_GONE = "[redacted]"


def redacted(text: str, key: str) -> str:
    """``text`` without ``key``, also where JSON escapes spell it."""
    if not key or len(text) < len(key):
        return text
    exact = text.replace(key, _GONE)
    return _spellings(key).sub(_GONE, exact) if "\\" in exact else exact


def redacted_json(value: Any, key: str) -> Any:
    """A decoded JSON value without ``key`` in its texts and names."""
    if isinstance(value, str):
        return redacted(value, key)
    if isinstance(value, dict):
        return {redacted(name, key): redacted_json(one, key) for name, one in value.items()}
    if isinstance(value, list):
        return [redacted_json(one, key) for one in value]
    return value


def shown(text: str, key: str = "") -> str:
    """One short line of what a server said: without words that share eight characters with ``key`` or look like one."""
    line = "".join(c if c.isprintable() else " " for c in redacted(text, key)[: 4 * _MAX_CHARS])
    line = _KEY_SHAPE.sub(_GONE, " ".join(line.split()))
    pieces = {key[at : at + _PIECE] for at in range(len(key) - _PIECE + 1)}
    line = _WORD.sub(lambda word: _GONE if _shares(word[0], pieces) else word[0], line)
    return line if len(line) <= _MAX_CHARS else f"{line[:_MAX_CHARS]}..."


@functools.lru_cache(maxsize=64)
def _spellings(key: str) -> re.Pattern[str]:
    """Every character as itself, as ``\\u00..``, or behind a backslash where JSON allows one."""
    plain = (f"\\\\?{re.escape(c)}" if c in '/"\\' else re.escape(c) for c in key)
    return re.compile("".join(f"(?:{one}|\\\\u(?i:{ord(c):04x}))" for one, c in zip(plain, key, strict=True)))


def _shares(word: str, pieces: set[str]) -> bool:
    return any(word[at : at + _PIECE] in pieces for at in range(len(word) - _PIECE + 1))
