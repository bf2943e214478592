"""Action names in replies without JSON, as small models write them.

The first form that occurs in the text counts: ``<action>do</action>``; lines ``Actions: left, do`` or ``Action 1: do``;
a list with bullets or numbers; nothing but names, in the whole text or in its last line.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from envs.crafter.aliases import action_named

# Of a longer text the end counts. Every pattern below needs time linear in this.
_MAX_CHARS = 4000

_TAG = re.compile(r"<actions?>([^<]*)</actions?>|\[actions?\]([^\[]*)\[/actions?\]", re.IGNORECASE)
_MARK = re.compile(r"[\s>*#_-]{0,20}(?:\d{1,3}[.)] ?)?actions? ?(?:\d{1,3})?[ *_]{0,4}[:=](.*)", re.IGNORECASE)
_BULLET = re.compile(r" {0,20}(?:[-*•+]|\(?\d{1,3}[.):])(.*)")
_REMARK = re.compile(r" [-\u2013\u2014#] ?|[:(]")
_SEPARATOR = re.compile(r"[,;|→\n]|->|\bthen\b|\band\b", re.IGNORECASE)
_QUOTES = " \t\r\"'`*.!<>[]()"
_NAME = re.compile(r"\w{1,40}")


def plain_names(text: str) -> list[str] | None:
    """Names as the text gives them, unknown ones among them; None if it has none of the forms."""
    text = text[-_MAX_CHARS:]
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("```")]
    for form in _FORMS:
        names = form(lines)
        if names:
            return names
    return None


def _tagged(lines: list[str]) -> list[str]:
    return [name for found in _TAG.findall("\n".join(lines)) for name in _split("".join(found))]


def _marked(lines: list[str]) -> list[str]:
    marks = (_MARK.fullmatch(line) for line in lines)
    return [name for mark in marks if mark for name in _split(mark[1])]


def _listed(lines: list[str]) -> list[str]:
    bullets = (_BULLET.fullmatch(line) for line in lines)
    names = [name for bullet in bullets if bullet for name in _split(_REMARK.split(bullet[1].strip(), maxsplit=1)[0])]
    return names if any(map(action_named, names)) else []


def _bare(lines: list[str]) -> list[str]:
    """All of it, if each part is an action or at least one word; else the last line, if each part is an action."""
    if any("{" in line or "}" in line for line in lines):
        return []  # JSON that can't be read is told as such
    names = [name for line in lines for name in _split(line)]
    if any(map(action_named, names)) and all(action_named(name) or _NAME.fullmatch(name) for name in names):
        return names
    last = _split(lines[-1]) if lines else []
    return last if all(map(action_named, last)) else []


_FORMS: tuple[Callable[[list[str]], list[str]], ...] = (_tagged, _marked, _listed, _bare)


def _split(text: str) -> list[str]:
    """The parts between separators, without quotes; words without a separator are parts if each is an action."""
    names: list[str] = []
    for part in _SEPARATOR.split(text):
        name = part.strip(_QUOTES)
        words = name.split()
        if len(words) > 1 and not action_named(name) and all(map(action_named, words)):
            names += words
        elif name:
            names.append(name)
    return names
