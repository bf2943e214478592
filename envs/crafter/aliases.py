"""Other names of actions that models use."""

from __future__ import annotations

import re
from typing import Any

from envs.crafter.rules import ACTION_ID, ACTIONS

ALIASES: dict[str, str] = {
    "left": "move_left",
    "right": "move_right",
    "up": "move_up",
    "down": "move_down",
    "interact": "do",
    "use": "do",
    "action": "do",
    "rest": "sleep",
    **{f"craft_{name[5:]}": name for name in ACTIONS if name.startswith("make_")},
}

_MAX_CHARS = 100
_GAP = re.compile(r"[\s\-]+")


def action_named(name: Any) -> str | None:
    """The action that ``name`` means, or None. Case doesn't count; "move right" and "move-right" are move_right."""
    if not isinstance(name, str) or len(name) > _MAX_CHARS:
        return None
    cleaned = _GAP.sub("_", name.strip().lower())
    action = ALIASES.get(cleaned, cleaned)
    return action if action in ACTION_ID else None
