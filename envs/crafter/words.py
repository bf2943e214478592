"""The words of compact text and of replies: enough for a word-level tokenizer without an unknown token."""

from __future__ import annotations

from envs.crafter.rules import ACHIEVEMENTS, ACTIONS, ITEM_MAX, ITEMS, MATERIALS
from envs.crafter.text import EDGE, LETTERS
from envs.crafter.view import WINDOW

REPLY_PIECES = ('{"actions": ["', '", "', '"]}')
"""The JSON around the action names, each to be one token, so that a reply of k actions costs 2k + 1 tokens."""

_ROLES = ("system", "user", "assistant")
_SENTENCES = ("face", "blocked", "near", "low", "have", "asleep", "done", ".", ",")
_THINGS = ("cow", "zombie", "skeleton", "arrow", "plant", "ripe", EDGE)


def vocabulary() -> tuple[str, ...]:
    """Every word once, in a fixed order. Special tokens and REPLY_PIECES are the tokenizer's to add."""
    letters = tuple(LETTERS.values())
    numbers = tuple(str(number) for number in range(max(ITEM_MAX.values()) + 1))
    offsets = tuple(f"{count}{letter}" for count in range(1, max(WINDOW) + 1) for letter in letters)
    materials = tuple(name for name in MATERIALS if name)
    words = (*_ROLES, *_SENTENCES, *letters, *_THINGS, *numbers, *offsets, *materials, *ITEMS, *ACHIEVEMENTS, *ACTIONS)
    return tuple(dict.fromkeys(words))
