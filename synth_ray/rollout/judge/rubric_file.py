"""From JSON, TOML or tables in a config to rubrics: the border where every mistake gets its name.

Two forms. A task's rubric scores whole rollouts: ``version``, ``goal_text``, ``criteria``, ``aggregation``. A judge's
rubric has a list of criteria for turns (``event``), one for rollouts (``outcome``), or both.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from synth_ray.core.config import Section, did_you_mean, read_toml, validate
from synth_ray.core.errors import ConfigError, NotFoundError
from synth_ray.core.judge_sections import JudgeOptions
from synth_ray.core.paths import app_root, config_path
from synth_ray.rollout.judge.rubric import Criterion, Rubric, Rubrics

_MAX_BYTES = 256 * 1024
_STRICT_ERROR = 1e-6
_FOLDER = Path("configs/rubrics")


class CriterionFields(Section):
    """One criterion as written."""

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    description: str = Field(min_length=1, max_length=4000)
    weight: float = Field(1.0, gt=0, le=1e6)
    required: bool = False
    scale: Literal["binary", "bounded", "count", "custom"] = "bounded"


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


class RubricFields(Section):
    """A rubric as written, in either form."""

    version: Annotated[str, BeforeValidator(_text)] = ""
    goal_text: str = ""
    aggregation: Literal["weighted_sum", "sum", "custom", "inherit"] = "weighted_sum"
    criteria: list[CriterionFields] = Field(default=[], max_length=64)
    event: list[CriterionFields] = Field(default=[], max_length=64)
    outcome: list[CriterionFields] = Field(default=[], max_length=64)

    @field_validator("aggregation")
    @classmethod
    def _computable(cls, value: str) -> str:
        if value == "custom":
            raise ValueError("a custom aggregation is not known here; use weighted_sum or sum")
        if value == "inherit":
            raise ValueError("there is nothing to inherit from; use weighted_sum or sum")
        return value

    @model_validator(mode="after")
    def _one_form(self) -> RubricFields:
        if self.criteria and (self.event or self.outcome):
            raise ValueError("give either criteria (a task's rubric) or event and outcome (a judge's), not both")
        if not (self.criteria or self.event or self.outcome):
            raise ValueError("a rubric needs criteria")
        for part in (self.criteria, self.event, self.outcome):
            check_ids(part)
        return self


def check_ids(criteria: Sequence[CriterionFields]) -> None:
    """ValueError if two criteria of one list have the same id."""
    ids = [one.id for one in criteria]
    if twice := sorted({one for one in ids if ids.count(one) > 1}):
        raise ValueError(f"criterion {twice[0]!r} is there twice")


def parse_rubrics(values: Mapping[str, Any], strict: bool = False, where: str = "rubric") -> Rubrics:
    """The rubrics in ``values``; ConfigError that begins with ``where``.

    ``strict`` also wants a version, a goal, ``weighted_sum``, and weights of at most 1 that sum to 1.
    """
    fields = validate(RubricFields, values, where)
    if strict:
        _check_strict(fields, where)

    def rubric(criteria: Sequence[CriterionFields]) -> Rubric | None:
        made = tuple(_criterion(one) for one in criteria)
        return Rubric(made, fields.aggregation, fields.goal_text, fields.version) if made else None

    return Rubrics(rubric(fields.event), rubric(fields.criteria or fields.outcome))


def load_rubrics(name: str, strict: bool = False) -> Rubrics:
    """The rubrics in the JSON or TOML file ``name``, or in the shipped file ``configs/rubrics/<name>.json``.

    Raises NotFoundError, or ConfigError that names the file.
    """
    path = _path(name)
    if path.suffix == ".toml":
        return parse_rubrics(read_toml(path), strict, str(path))
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{path} is longer than {_MAX_BYTES} bytes", "a rubric is a short text")
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise NotFoundError(f"rubric {name!r} does not exist", f"shipped rubrics: {', '.join(_shipped())}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path} holds no JSON object", "see docs/judges.md")
    return parse_rubrics(values, strict, str(path))


def judged_rubrics(options: JudgeOptions, given: Rubrics | None = None) -> Rubrics:
    """What a judge with ``options`` scores: ``given`` or the rubric that they name, then their overrides and weights.

    Raises ConfigError if nothing is left to score.
    """
    base = given or (load_rubrics(options.rubric_id) if options.rubric_id else Rubrics())
    if unknown := sorted(options.rubric_overrides.keys() - {"event", "outcome"}):
        raise ConfigError(
            f"unknown key 'rubric_overrides.{unknown[0]}'", did_you_mean(unknown[0], ["event", "outcome"])
        )
    event = _overridden(base.event, options, "event") if options.event else None
    outcome = _overridden(base.outcome, options, "outcome") if options.outcome else None
    if event is None and outcome is None:
        raise ConfigError(
            "the judge has nothing to score",
            'name a rubric whose event or outcome criteria the options ask for, for example rubric_id = "crafter"',
        )
    return Rubrics(event, outcome)


def _overridden(base: Rubric | None, options: JudgeOptions, part: str) -> Rubric | None:
    """``base`` with the criteria of ``rubric_overrides`` in place of its own, and every weight times its group's."""
    override = options.rubric_overrides.get(part)
    rubric = base
    if override:
        if not isinstance(override, Mapping):
            raise ConfigError(f"rubric_overrides.{part} must be a table with criteria")
        kept = {"version": base.version, "goal_text": base.goal, "aggregation": base.aggregation} if base else {}
        given = {key: value for key, value in override.items() if value != "inherit"}
        parsed = parse_rubrics({**kept, **given}, where=f"rubric_overrides.{part}")
        if parsed.event or parsed.outcome is None:
            raise ConfigError(f"rubric_overrides.{part} needs criteria, as a task's rubric has them")
        rubric = parsed.outcome
    if rubric is None:
        return None
    weights = options.weights
    scaled = (replace(one, weight=one.weight * _factor(one.id, weights)) for one in rubric.criteria)
    kept_criteria = tuple(one for one in scaled if one.weight > 0)
    return replace(rubric, criteria=kept_criteria) if kept_criteria else None


def _factor(criterion: str, weights: Mapping[str, float]) -> float:
    return weights.get(criterion, weights.get(criterion.partition(".")[0], 1.0))


def _criterion(fields: CriterionFields) -> Criterion:
    return Criterion(fields.id, fields.description, fields.weight, fields.required, fields.scale)


def _check_strict(fields: RubricFields, where: str) -> None:
    for name in ("version", "goal_text"):
        if not getattr(fields, name).strip():
            raise ConfigError(f"{where}: a strict rubric needs {name}")
    if fields.aggregation != "weighted_sum":
        raise ConfigError(f"{where}: a strict rubric is a weighted_sum, not a {fields.aggregation}")
    for name in ("criteria", "event", "outcome"):
        weights = [one.weight for one in getattr(fields, name)]
        if weights and abs(math.fsum(weights) - 1.0) > _STRICT_ERROR:
            raise ConfigError(f"{where}: the weights of {name} sum to {math.fsum(weights):g}; a strict rubric wants 1")


def _path(name: str) -> Path:
    if name.endswith((".json", ".toml")):
        return config_path(Path(name))
    return config_path(_FOLDER / f"{name}.json")


def _shipped() -> list[str]:
    return sorted(path.stem for path in (app_root() / _FOLDER).glob("*.json"))
