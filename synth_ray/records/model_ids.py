"""Model ids: ``<method>:<base>:<job id>[:<checkpoint>]``; the base may itself be a model id or contain slashes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from synth_ray.core.errors import ConfigError

METHODS = ("fft", "peft", "rl")
_MODEL_ID = re.compile(rf"^({'|'.join(METHODS)}):([^\s:][^\s]*):(job_[A-Za-z0-9_-]+)(?::([^\s:]+))?$")


@dataclass(frozen=True, slots=True)
class ModelId:
    """``method`` made the model (full fine-tune, adapter fine-tune, RL) from ``base`` in job ``job_id``."""

    method: str
    base: str
    job_id: str
    checkpoint: str = ""

    def __str__(self) -> str:
        parts = (self.method, self.base, self.job_id, self.checkpoint)
        return ":".join(part for part in parts if part)


def parse_model_id(text: str) -> ModelId:
    """Takes an id apart; the last job id in it is its own, all before belongs to the base. Raises ConfigError."""
    match = _MODEL_ID.match(text)
    if not match:
        raise ConfigError(
            f"{text!r} is not a model id", f"model ids look like fft:BASE:job_123 and start with {', '.join(METHODS)}"
        )
    return ModelId(match[1], match[2], match[3], match[4] or "")
