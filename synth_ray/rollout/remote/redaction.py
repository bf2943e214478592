"""What other servers say, made fit for traces and messages: without keys, control characters and length."""

from __future__ import annotations

import re

_MAX_CHARS = 300
_PIECE = 8
_KEY_SHAPE = re.compile(r"(?:\b(?:sk|gsk|hf|xai|pk)[-_]|Bearer\s+)[A-Za-z0-9*._\-]{6,}")
_WORD = re.compile(rf"[^\s\"'<>,;(){{}}\[\]]{{{_PIECE},}}")
_GONE = "[redacted]"


def redacted(text: str, key: str) -> str:
    """``text`` without ``key``."""
    return text.replace(key, _GONE) if key else text


def shown(text: str, key: str = "") -> str:
    """One short line of what a server said: without words that share eight characters with ``key`` or look like one."""
    line = "".join(c if c.isprintable() else " " for c in text[: 4 * _MAX_CHARS])
    line = _KEY_SHAPE.sub(_GONE, " ".join(line.split()))
    pieces = {key[at : at + _PIECE] for at in range(len(key) - _PIECE + 1)}
    line = _WORD.sub(lambda word: _GONE if _shares(word[0], pieces) else word[0], line)
    return line if len(line) <= _MAX_CHARS else f"{line[:_MAX_CHARS]}..."


def _shares(word: str, pieces: set[str]) -> bool:
    return any(word[at : at + _PIECE] in pieces for at in range(len(word) - _PIECE + 1))
