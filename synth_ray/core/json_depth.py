"""How deeply JSON nests, found without recursion: what recurses, as parsers do, must not see hostile depth.

Linear time and memory. Text that is not JSON gets some number; it is the parser's to refuse it. So does
text in another encoding than UTF-8.
"""

from __future__ import annotations

import numpy as np

MOST_LEVELS = 64
"""Deeper JSON, asked or answered, is refused everywhere: writing it again would recurse as deeply."""

_BRACKETS = b"[]{}"
_OTHER_BYTES = bytes(set(range(256)) - set(_BRACKETS))
_AS_SQUARE = bytes.maketrans(b"{}", b"[]")
_MIDDLE = (ord("[") + ord("]")) // 2


def json_depth(text: bytes) -> int:
    """The largest number of arrays and objects that are open at one place of ``text``."""
    unescaped = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside_strings = b"".join(unescaped.split(b'"')[::2])
    brackets = outside_strings.translate(_AS_SQUARE, delete=_OTHER_BYTES)
    if not brackets:
        return 0
    opened = _MIDDLE - np.frombuffer(brackets, np.int8)  # +1 for an opening bracket, -1 for a closing one
    return max(0, int(np.cumsum(opened, dtype=np.int32).max()))


def too_deep(text: str) -> bool:
    """Whether ``text`` nests deeper than MOST_LEVELS."""
    return json_depth(text.encode("utf-8", "replace")) > MOST_LEVELS
