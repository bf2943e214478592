"""docs/playbook.md as a program: its blocks in order, and what they must print.

``bash`` blocks run, one after the other in one shell; a ``text`` block says what the ``bash`` block before it prints;
``sh`` blocks are shown only.
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "playbook.md"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    language: str
    text: str


def blocks() -> list[Block]:
    """The document's blocks, from top to bottom."""
    return [Block(*found) for found in _BLOCK.findall(DOCUMENT.read_text())]


def steps() -> list[tuple[str, str]]:
    """Every ``bash`` block with the ``text`` block that follows it, if one does."""
    pairs = []
    every = [*blocks(), Block("", "")]
    for block, following in itertools.pairwise(every):
        if block.language == "bash":
            pairs.append((block.text, following.text if following.language == "text" else ""))
    return pairs


def commands() -> Iterator[list[str]]:
    """The arguments of every ``synth-ray`` command that is run or shown."""
    for block in blocks():
        if block.language in ("bash", "sh"):
            for line in block.text.replace("\\\n", " ").splitlines():
                yield from _commands_in(line)


def missing(expected: str, printed: str) -> str:
    """The first line of ``expected`` that is not in ``printed`` after those before it; empty if all are.

    ``...`` stands for anything within a line, and the width of white space does not count.
    """
    lines = iter(" ".join(line.split()) for line in printed.splitlines())
    for line in expected.splitlines():
        pattern = ".*".join(re.escape(" ".join(part.split())) for part in line.split("..."))
        if not any(re.search(pattern, candidate) for candidate in lines):
            return line
    return ""


def _commands_in(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, "#"
    current: list[str] | None = None
    for word in lexer:
        if not word.strip("();<>|&"):
            if current is not None:
                yield current
            current = None
        elif word == "synth-ray":
            current = []
        elif current is not None:
            current.append(word)
    if current is not None:
        yield current
