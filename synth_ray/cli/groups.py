"""Groups that do something by themselves: `status jobs` lists, `status jobs get JOB` looks closer."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import click


class DefaultGroup(click.Group):
    """A group whose ``default`` command runs, with all arguments, unless the first one names another command."""

    default: click.Command

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """The context of the default command, or the group's own."""
        first = args[0] if args else ""
        if first in self.commands:
            return super().make_context(info_name, args, parent, **extra)
        takes_words = any(isinstance(parameter, click.Argument) for parameter in self.default.params)
        if first and not first.startswith("-") and not takes_words:
            raise click.UsageError(f"no such command {first!r}; {self._known(first)}")
        if close := get_close_matches(first, self.commands, n=1, cutoff=0.75):
            raise click.UsageError(f"no such command {first!r}; did you mean {close[0]!r}?")
        return self.default.make_context(info_name, args, parent, **extra)

    def _known(self, word: str) -> str:
        close = get_close_matches(word, self.commands, n=1, cutoff=0.5)
        return f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(sorted(self.commands))}"


def default_group(default: click.Command, name: str, *others: click.Command, alias: str = "") -> DefaultGroup:
    """A group called ``name`` around ``default``, which can be called ``alias`` too."""
    group = DefaultGroup(name, help=default.help, short_help=default.get_short_help_str(60))
    group.default = default
    for command in others:
        group.add_command(command)
    if alias:
        group.add_command(default, alias)
    words = ", ".join(f"{name} {command}" for command in sorted(group.commands))
    default.epilog = "\n\n".join(filter(None, [default.epilog, f"See also: {words}"]))
    return group
