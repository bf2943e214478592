"""Model sources: a local folder, or a hub id that each machine fetches for itself. Knows nothing about torch."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from synth_ray.core.errors import NotFoundError

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


def is_hub_id(source: str) -> bool:
    """Whether ``source`` has the form of a hub id, such as ``Qwen/Qwen3-4B``."""
    return bool(_HUB_ID.match(source))


@lru_cache(maxsize=32)
def local_model(source: str) -> Path:
    """The folder of a model: ``source`` itself, or the snapshot of a hub id (never its pickles).

    Raises NotFoundError if there is no such folder and the hub can't give it.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if not is_hub_id(source):
        raise NotFoundError(f"no model {source!r}", "give a built-in name, a model id, a local folder or a hub id")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=_FILES))
    except Exception as error:
        first = str(error).strip().splitlines()[:1]
        raise NotFoundError(
            f"no folder {source!r}, and the model hub could not give it: {first[0] if first else type(error).__name__}",
            "check the spelling and the network, or give the path of a downloaded model",
        ) from None
