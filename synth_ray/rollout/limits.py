"""What one rollout may ask of a task app, whoever asks."""

from __future__ import annotations

from dataclasses import dataclass

from synth_ray.core.errors import ConfigError
from synth_ray.core.types import EpisodeSpec


@dataclass(frozen=True)
class Limits:
    """Upper bounds, inclusive. How much one turn may do to the world is bounded by the task's own settings."""

    turns: int = 1000
    reply_tokens: int = 32_768
    deadline_s: float = 3600.0

    def check(self, spec: EpisodeSpec) -> None:
        """ConfigError, which says what is allowed, if ``spec`` asks for more."""
        asked = (
            ("max_turns", spec.max_turns, self.turns),
            ("sampling.max_tokens", spec.sampling.max_tokens, self.reply_tokens),
            ("deadline_s", spec.deadline_s, self.deadline_s),
            ("turn_timeout_s", spec.turn_timeout_s, self.deadline_s),
        )
        for name, value, limit in asked:
            if not 0 < value <= limit:
                raise ConfigError(f"{name} must be above 0 and at most {limit:g}, not {value:g}")


LIMITS = Limits()
