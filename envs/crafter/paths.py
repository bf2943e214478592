"""Shortest walks over what the expert believes."""

from __future__ import annotations

from typing import NamedTuple

from envs.crafter.mind import Mind, codes
from envs.crafter.rules import STONE

_MAX_CELLS = 2500


class Want(NamedTuple):
    """What to look for: codes of materials and things, and the same as a table of 256 flags."""

    codes: tuple[int, ...]
    table: bytes


class Route(NamedTuple):
    """A way to a cell next to the target: number of steps, and the first of them (or the direction of the target)."""

    length: int
    offset: int


def want(*wanted: int) -> Want:
    """Anything of these codes."""
    return Want(wanted, bytes(code in wanted for code in range(256)))


_WALK = want(*codes("grass", "path", "sand")).table
_WALK_OR_DIG = want(*codes("grass", "path", "sand", "stone")).table


def passable(dig: bool) -> bytes:
    """Flags of the codes that one can walk on, or through with a pickaxe."""
    return _WALK_OR_DIG if dig else _WALK


def find(mind: Mind, target: Want, dig: bool = False) -> Route | None:
    """The shortest route to a neighbour of the nearest target; straight on first, then left, right, up, down."""
    seen, wanted, open_codes = mind.seen, target.table, passable(dig)
    if not any(mind.sees(code) for code in target.codes):
        return None
    offsets = mind.offsets
    visited = bytearray(len(seen))
    visited[mind.cell] = 1
    frontier = [(mind.cell, 0)]
    around = (mind.facing, *(offset for offset in offsets if offset != mind.facing))
    length = cells = 0
    while frontier and cells <= _MAX_CELLS:
        following = []
        for cell, first in frontier:
            for offset in around:
                neighbour = cell + offset
                code = seen[neighbour]
                if wanted[code]:
                    return Route(length, first or offset)
                if open_codes[code] and not visited[neighbour]:
                    visited[neighbour] = 1
                    following.append((neighbour, first or offset))
        cells += len(frontier)
        frontier = following
        around = offsets
        length += 1
    return None


def follow(mind: Mind, route: Route, act: str = "do") -> str:
    """The next action on a route; ``act`` once the target is in front. Walking against a blocked cell only turns."""
    if mind.facing != route.offset:
        return mind.move_name(route.offset)
    if route.length == 0:
        return act
    return "do" if mind.seen[mind.front] == STONE else mind.move_name(route.offset)


def go(mind: Mind, target: Want, act: str = "do", dig: bool = False) -> str | None:
    """The next action towards ``act`` on the nearest target, None if there is no way."""
    route = find(mind, target, dig)
    return None if route is None else follow(mind, route, act)
