"""One frame of a replay: the world, the actions of the turn, the achievements, and what the model said. Pillow only."""

from __future__ import annotations

import functools
import json
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from envs.crafter.replay import Scene
from envs.crafter.rules import ACHIEVEMENTS
from synth_ray.core.text import clean
from synth_ray.core.types import Rollout, Turn

# Pixels at scale 1. The world is 9 x 9 units: 9 x 7 cells of the map, and 9 x 2 of inventory below them.
UNIT = 32
_WORLD = 9 * UNIT
_PAD = 14
_HEAD = 30
_STRIP = 58
_PANEL = 316
_LINE = 15
_FONT = 12
_GAP = 5
_MOST_HEARD = 4
_MAX_CHARS = 4000

_INK, _DIM, _BACK, _BOX, _EDGE = (228, 230, 235), (128, 134, 146), (22, 24, 30), (32, 35, 43), (52, 56, 67)
_GOOD, _NEW, _MARK = (110, 200, 120), (255, 203, 87), (88, 150, 240)
_REASONING = ("reasoning_content", "reasoning", "thinking")

WIDTH = 3 * _PAD + _WORLD + _PANEL
HEIGHT = 2 * _PAD + _HEAD + _WORLD + _STRIP


@dataclass(frozen=True, slots=True)
class _Pen:
    """Draws in the units of scale 1."""

    draw: Any
    scale: int

    def text(self, x: float, y: float, text: str, colour: Any = _INK, size: int = _FONT, anchor: str = "la") -> None:
        place = (x * self.scale, y * self.scale)
        self.draw.text(place, text, fill=colour, font=_font(size * self.scale), anchor=anchor)

    def box(self, x: float, y: float, width: float, height: float, fill: Any, outline: Any = None) -> None:
        corners = [value * self.scale for value in (x, y, x + width, y + height)]
        self.draw.rounded_rectangle(corners, 4 * self.scale, fill=fill, outline=outline, width=self.scale)

    def tick(self, x: float, y: float, colour: Any) -> None:
        points = [(x, y + 4), (x + 3, y + 7), (x + 8, y)]
        scaled = [(px * self.scale, py * self.scale) for px, py in points]
        self.draw.line(scaled, fill=colour, width=2 * self.scale, joint="curve")

    def width(self, text: str, size: int = _FONT) -> float:
        return float(_font(size * self.scale).getlength(text)) / self.scale


def draw(scene: Scene, rollout: Rollout, scale: int = 1) -> Image.Image:
    """The frame of a scene: ``WIDTH`` x ``HEIGHT`` pixels times ``scale``."""
    image = Image.new("RGB", (WIDTH * scale, HEIGHT * scale), _BACK)
    pen = _Pen(ImageDraw.Draw(image), scale)
    top = _PAD + _HEAD
    image.paste(Image.fromarray(scene.picture), (_PAD * scale, top * scale))
    turn = rollout.turns[scene.turn]
    _head(pen, scene, rollout, turn)
    _actions(pen, scene, turn, top + _WORLD + 8)
    bottom = _achievements(pen, scene, 2 * _PAD + _WORLD, top)
    _speech(pen, turn, 2 * _PAD + _WORLD, bottom + 10)
    return image


def said(turn: Turn) -> str:
    """What the model said in a turn: reasoning, text and tool calls, without control characters."""
    extra = turn.reply.extra
    reasoning = next((str(extra[name]) for name in _REASONING if extra.get(name)), "")
    calls = json.dumps(extra["tool_calls"], default=str) if extra.get("tool_calls") else ""
    return clean("\n".join(part.strip() for part in (reasoning, turn.reply.text, calls) if part.strip()))


def _head(pen: _Pen, scene: Scene, rollout: Rollout, turn: Turn) -> None:
    y = _PAD + 6
    pen.text(_PAD, y, f"turn {scene.turn + 1} of {len(rollout.turns)}", size=15)
    pen.text(_PAD + _WORLD, y + 3, f"seed {rollout.seed}", _DIM, anchor="ra")
    right = WIDTH - _PAD
    pen.text(2 * _PAD + _WORLD, y + 3, _fitting(pen, clean(rollout.model), _PANEL - 110), _DIM)
    earned = turn.reward.total > 0 and (scene.new or scene.action == len(turn.facts.actions) - 1)
    pen.text(right, y, f"reward {turn.reward.total:+g}", _NEW if earned else _DIM, 15, "ra")


def _actions(pen: _Pen, scene: Scene, turn: Turn, y: float) -> None:
    """The actions as chips, the present one marked; as many rows as fit, beginning with the present one's."""
    rows: list[list[tuple[float, int, str]]] = [[]]
    x = 0.0
    for at, action in enumerate(turn.facts.actions):
        label = clean(action).replace("_", " ")
        width = pen.width(label) + 12
        if x + width > _WORLD and rows[-1]:
            rows.append([])
            x = 0.0
        rows[-1].append((x, at, label))
        x += width + 5
    current = next((number for number, row in enumerate(rows) if any(at == scene.action for _, at, _ in row)), 0)
    first = max(0, min(current, len(rows) - 2))
    for line, row in enumerate(rows[first : first + 2]):
        for left, at, label in row:
            fill = _MARK if at == scene.action else _BOX
            colour = (255, 255, 255) if at == scene.action else _DIM if at < scene.action else _INK
            top = y + line * 24
            pen.box(_PAD + left, top, pen.width(label) + 12, 20, fill)
            pen.text(_PAD + left + 6, top + 10, label, colour, anchor="lm")


def _achievements(pen: _Pen, scene: Scene, x: float, y: float) -> float:
    """Two columns; returns where they end."""
    rows = (len(ACHIEVEMENTS) + 1) // 2
    for index, name in enumerate(ACHIEVEMENTS):
        left, top = x + (index // rows) * _PANEL / 2, y + (index % rows) * _LINE
        has = name in scene.unlocked
        colour = _NEW if name in scene.new else _GOOD if has else _DIM
        if has:
            pen.tick(left, top + 4, colour)
        pen.text(left + 14, top, name.replace("_", " "), colour)
    return y + rows * _LINE


def _speech(pen: _Pen, turn: Turn, x: float, y: float) -> None:
    """What the model was told last, dimmed, and what it answered."""
    height = HEIGHT - _PAD - y
    pen.box(x, y, _PANEL, height, _BOX, _EDGE)
    room = int((height - 14) // _LINE)
    told = turn.messages[-1].content if turn.messages else ""
    heard = _lines(clean(told), pen.scale, _MOST_HEARD)
    for number, line in enumerate(heard):
        pen.text(x + 9, y + 7 + number * _LINE, line, _DIM)
    for number, line in enumerate(_lines(said(turn), pen.scale, room - len(heard))):
        pen.text(x + 9, y + 7 + _GAP + (len(heard) + number) * _LINE, line)


def _lines(text: str, scale: int, room: int) -> list[str]:
    """``text`` as at most ``room`` lines; three dots say that there was more."""
    lines = list(islice(_wrapped(text[:_MAX_CHARS], _PANEL - 18, scale), room + 1))
    return lines if len(lines) <= room else [*lines[: room - 1], f"{lines[room - 1][:-3]}..."]


def _wrapped(text: str, width: float, scale: int) -> Iterator[str]:
    font, limit = _font(_FONT * scale), width * scale
    for paragraph in text.expandtabs(4).split("\n"):
        yield from _wrap(paragraph, font, limit)


def _wrap(paragraph: str, font: Any, limit: float) -> Iterator[str]:
    """Lines no wider than ``limit``, broken at spaces, within a word only if it is wider than a line."""
    line = ""
    for word in paragraph.split(" "):
        candidate = f"{line} {word}" if line else word
        if line and font.getlength(candidate) > limit:
            yield line
            candidate = word
        while (fits := _fitting_chars(candidate, font, limit)) < len(candidate):
            yield candidate[:fits]
            candidate = candidate[fits:]
        line = candidate
    yield line


def _fitting_chars(text: str, font: Any, limit: float) -> int:
    """How many characters of ``text`` are no wider than ``limit``; one at least."""
    if font.getlength(text) <= limit:
        return len(text)
    return max(1, bisect_right(range(1, len(text)), limit, key=lambda count: font.getlength(text[:count])))


def _fitting(pen: _Pen, text: str, width: float) -> str:
    font, limit = _font(_FONT * pen.scale), width * pen.scale
    fits = _fitting_chars(text[:_MAX_CHARS], font, limit)
    return text if fits == len(text) else f"{text[: max(0, fits - 3)]}..."


@functools.cache
def _font(size: int) -> Any:
    """Pillow's own font: the same pixels on every machine."""
    return ImageFont.load_default(size)
