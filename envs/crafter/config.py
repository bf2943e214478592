"""Settings of the task and of its teacher, checked where they enter."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from envs.crafter.text import RENDERERS
from synth_ray.core.errors import ConfigError

Rate = Annotated[float, Field(ge=0, le=1)]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class CrafterConfig(_Settings):
    """How an episode is shown and how a reply is read."""

    renderer: str = "compact"
    """Name of the text renderer, a key of ``text.RENDERERS``."""
    transposed_map: bool = False
    """Seed renderer: whether the lines of the map are columns, as in the original system."""
    step_counter: Literal["turns", "env_steps"] = "turns"
    """Seed renderer: what "Step: n/max" counts; the original system counted env steps up to ``length``."""
    previous_calls: int = Field(default=3, ge=0, le=20)
    """Seed renderer: how many of the model's last calls are listed; 0 leaves the list out."""
    use_vision: bool = False
    """Whether the message carries a picture. Only remote models can see; the engine's models read text."""
    image_only_mode: bool = False
    """Whether the picture replaces the text of the observation; implies ``use_vision``."""
    image_size: int = Field(default=252, ge=63, le=1080)
    """Width and height of the picture in pixels; a multiple of 9 leaves no border around the 9 x 9 cells."""
    max_actions_per_turn: int = Field(default=5, ge=1, le=100)
    """Actions of one reply beyond this number are not executed."""
    report_cut: bool = True
    """Whether a reply with too many actions counts as a problem."""
    bad_reply: Literal["noop", "skip"] = "noop"
    """What a reply without a usable action does: one noop, or nothing; the turn is used up in both cases."""
    report_problems: bool | None = None
    """Whether the next message tells what was wrong with a reply. None: unless messages are nothing but compact text,
    which is how a tiny model with a closed vocabulary is trained."""
    system_prompt: bool = False
    """Whether a system message explains game, actions, goal and reply format; a tiny model learns these by training."""
    length: int | None = Field(default=10000, ge=1)
    """Environment steps after which the world ends; None for no limit."""

    @property
    def vision(self) -> bool:
        """Whether messages carry pictures."""
        return self.use_vision or self.image_only_mode

    @property
    def tells_problems(self) -> bool:
        """``report_problems``, decided."""
        if self.report_problems is None:
            return self.system_prompt or self.vision or self.renderer != "compact"
        return self.report_problems

    @field_validator("renderer")
    @classmethod
    def _known_renderer(cls, name: str) -> str:
        if name not in RENDERERS:
            raise ValueError(f"unknown renderer {name!r}, known: {', '.join(RENDERERS)}")
        return name

    @model_validator(mode="after")
    def _fits_the_renderer(self) -> Self:
        unused = sorted(self.model_fields_set & {"transposed_map", "step_counter", "previous_calls"})
        if unused and self.renderer != "seed":
            raise ValueError(f"{', '.join(unused)}: for renderer 'seed', not {self.renderer!r}")
        return self


class ExpertConfig(_Settings):
    """The scripted expert, and the ways to make it worse on purpose.

    A weak start: ``noop_rate=0.5, random_rate=0.2, list_lengths={"1": 0.5, "2": 0.3, "3": 0.1, "4": 0.05, "5": 0.05}``.
    A strong start: ``off_policy_rate=0.1``, and turns of kind "off_policy" left out of the training data.
    """

    mode: Literal["window", "memory", "full"] = "window"
    """What it sees: the current 9 x 7 window, all windows so far, or the whole map."""
    actions_per_turn: int = Field(default=5, ge=1, le=100)
    """Length of a reply, and with the number of turns the length of the game it plans for."""
    noop_rate: Rate = 0.0
    """Share of planned actions replaced by noop."""
    random_rate: Rate = 0.0
    """Share of planned actions replaced by a uniformly random one; together with noop_rate at most 1."""
    list_lengths: dict[str, Rate] | None = None
    """Distribution of reply lengths, e.g. {"1" = 0.6, "3" = 0.4}; None for always actions_per_turn."""
    off_policy_rate: Rate = 0.0
    """Share of turns whose whole reply is random; they visit states that the expert would not, and are marked."""

    @field_validator("list_lengths")
    @classmethod
    def _a_distribution(cls, lengths: dict[str, float] | None) -> dict[str, float] | None:
        if lengths is None:
            return None
        if not all(key.isdecimal() and 1 <= int(key) <= 100 for key in lengths):
            raise ValueError("lengths must be whole numbers from 1 to 100")
        if abs(sum(lengths.values()) - 1) > 1e-6:
            raise ValueError(f"probabilities must sum to 1, not {sum(lengths.values()):g}")
        return lengths

    @model_validator(mode="after")
    def _rates_fit(self) -> Self:
        if self.noop_rate + self.random_rate > 1:
            raise ValueError("noop_rate and random_rate together exceed 1")
        return self


SettingsT = TypeVar("SettingsT", bound=_Settings)


def checked(model: type[SettingsT], values: Mapping[str, Any], section: str) -> SettingsT:
    """``values`` as a ``model``; the first mistake becomes a ConfigError that names ``section`` and key."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"{section}: unknown key {key!r}", did_you_mean(key, list(model.model_fields))) from None
        raise ConfigError(f"{section}: {key + ': ' if key else ''}{first['msg']}") from None


def did_you_mean(name: str, known: list[str]) -> str:
    """A hint: the closest known name, and all of them."""
    close = difflib.get_close_matches(name, known, n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f"{guess}known: {', '.join(known)}"
