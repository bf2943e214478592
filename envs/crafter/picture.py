"""The picture of a world, as upstream draws it, for models that see."""

from __future__ import annotations

import base64
import io

from PIL import Image

from envs.crafter.world import CrafterWorld


def png(world: CrafterWorld, size: int) -> bytes:
    """``size`` x ``size`` pixels, equal to those of ``crafter.Env.render``. Drawing changes nothing in the world."""
    buffer = io.BytesIO()
    Image.fromarray(world.render((size, size))).save(buffer, "PNG")
    return buffer.getvalue()


def data_url(world: CrafterWorld, size: int) -> str:
    """``png`` as a URL that chat messages can carry."""
    return f"data:image/png;base64,{base64.b64encode(png(world, size)).decode('ascii')}"
