"""Frames as one animated file, GIF or WebP. Knows nothing about worlds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import Image

from synth_ray.core.errors import ConfigError

ENDINGS = (".gif", ".webp")
MAX_FRAMES = 1500

_COLOURS = 256
_SAMPLES = 12


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture, and for how many beats it is shown."""

    picture: Image.Image
    beats: int = 1


def check_ending(path: Path) -> None:
    """ConfigError unless the name ends in .gif or .webp."""
    if path.suffix.lower() not in ENDINGS:
        raise ConfigError(f"{path} ends in neither {' nor '.join(ENDINGS)}", "for example --out replay.gif")


def write(path: Path, frames: Iterable[Frame], beat_ms: int) -> int:
    """Writes the frames, which all have one size; returns how many. The file loops for ever.

    All frames share one palette, so that what doesn't change from one to the next costs nothing.
    """
    shown = list(frames)
    durations = [frame.beats * beat_ms for frame in shown]
    palette = _palette([frame.picture for frame in shown])
    first, *others = (frame.picture.quantize(palette=palette, dither=Image.Dither.NONE) for frame in shown)
    options: dict[str, Any] = {"save_all": True, "duration": durations, "loop": 0}
    if path.suffix.lower() == ".gif":
        first.save(path, format="GIF", append_images=others, optimize=True, **options)
    else:
        colours = [one.convert("RGB") for one in chain([first], others)]
        colours[0].save(path, format="WEBP", append_images=colours[1:], lossless=True, quality=50, **options)
    return len(shown)


def thinned(frames: Iterable[Frame], total: int) -> Iterator[Frame]:
    """Every n-th frame and the last one, so that at most about ``MAX_FRAMES`` of ``total`` are left."""
    stride = -(-total // MAX_FRAMES)
    return (frame for at, frame in enumerate(frames) if at % stride == 0 or at == total - 1)


def _palette(pictures: Sequence[Image.Image]) -> Image.Image:
    """The colours of some of the pictures, spread over all of them."""
    chosen = pictures[:: max(1, len(pictures) // _SAMPLES)]
    width, height = chosen[0].size
    sheet = Image.new("RGB", (width, height * len(chosen)))
    for row, picture in enumerate(chosen):
        sheet.paste(picture, (0, row * height))
    return sheet.quantize(_COLOURS, method=Image.Quantize.MAXCOVERAGE)  # keeps rare colours too
