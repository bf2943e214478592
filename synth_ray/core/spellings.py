"""Other accepted spellings of experiment files: the keys of synth-ai 0.2, translated to ours before validation.

A rule changes one parsed file in place and reports what has no effect here. A rule steps aside where a section has the
key itself, so a key that becomes ours needs no change here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from synth_ray.core.errors import ConfigError

Table = dict[str, Any]
Knows = Callable[[str], bool]
"""Whether the configuration has the field at a dotted path."""


@dataclass
class Translation:
    """One file being translated: its tables, which keys are ours anyway, and what was found to have no effect."""

    table: Table
    knows: Knows
    warnings: list[str] = field(default_factory=list)
    changed: bool = False
    """Whether any rule applied."""
    older: bool = False
    """Whether a rule took a key that only the other spelling has: the file is in that spelling."""

    def get(self, path: str) -> Any:
        """The value at a dotted path, or None."""
        value: Any = self.table
        for part in path.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    def section(self, path: str) -> Table:
        """The table at a dotted path, an empty one if there is none; ConfigError that names what is no table."""
        found = self.table
        names = path.split(".")
        for depth, name in enumerate(names, 1):
            value = found.get(name)
            found = {} if value is None else _as_table(value, names[:depth])
        return found

    def pop_section(self, path: str, ours: bool = False) -> Table:
        """Takes a table out, as ``pop`` does; raises what ``section`` raises."""
        found = self.section(path)
        self.pop(path, ours)
        return found

    def pop(self, path: str, ours: bool = False) -> Any:
        """Takes the value at a dotted path out, with the tables that it leaves empty; None if there is none.

        ``ours``: the key is one of ours as well, so it does not tell the spelling.
        """
        parent, _, key = path.rpartition(".")
        holder = self.get(parent) if parent else self.table
        if not isinstance(holder, dict) or key not in holder:
            return None
        value = holder.pop(key)
        if not holder and parent:
            self.pop(parent, ours)
        self.changed = True
        self.older |= not ours
        return value

    def put(self, path: str, value: Any, replace: bool = False) -> None:
        """Sets a dotted path; a value that is there already stays, unless ``replace``; tables are merged."""
        parent, _, key = path.rpartition(".")
        holder = self.table
        names = parent.split(".") if parent else []
        for depth, name in enumerate(names, 1):
            holder = _as_table(holder.setdefault(name, {}), names[:depth])
        if isinstance(value, dict) and isinstance(holder.get(key), dict):
            for name, entry in value.items():
                self.put(f"{path}.{name}", entry, replace)
        elif replace or key not in holder:
            holder[key] = value

    def warn(self, text: str) -> None:
        """Says that something has no effect."""
        self.warnings.append(text)


Rule = Callable[[Translation], None]


def moved(old: str, new: str, replace: bool = False) -> Rule:
    """``old`` is what we call ``new``; a value under the new name wins unless ``replace``."""

    def rule(file: Translation) -> None:
        if not file.knows(old) and file.get(old) is not None:
            file.put(new, file.pop(old), replace)

    return rule


def ignored(reason: str, *paths: str) -> Rule:
    """Keys without effect here, and why."""

    def rule(file: Translation) -> None:
        for path in paths:
            if not file.knows(path) and file.get(path) is not None:
                file.pop(path)
                file.warn(f"{path} is ignored: {reason}")

    return rule


def dropped(*paths: str) -> Rule:
    """Keys that say what is the case here anyway: no warning."""

    def rule(file: Translation) -> None:
        for path in paths:
            if not file.knows(path):
                file.pop(path)

    return rule


def translate(table: Mapping[str, Any], rules: Sequence[Rule], knows: Knows) -> Translation:
    """``table`` in our spelling, with one warning for each key that has no effect."""
    file = Translation(_copied(table), knows)
    for rule in rules:
        rule(file)
    return file


def _as_table(value: Any, names: Sequence[str]) -> Table:
    if not isinstance(value, dict):
        raise ConfigError(f"{'.'.join(names)} must be a table")
    return value


def _copied(table: Mapping[str, Any]) -> Table:
    return {key: _copied(value) if isinstance(value, Mapping) else value for key, value in table.items()}
