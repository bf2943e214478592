"""From a judge's text to a review. Strict: whatever is not exactly what was asked for has a reason and no score."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from synth_ray.rollout.judge.review import PartReview, Review, Scored, shortened
from synth_ray.rollout.judge.rubric import SCALE_WORDS, SCALES, Criterion, Rubric, Rubrics, aggregate
from synth_ray.rollout.remote.client import parse_json
from synth_ray.rollout.remote.redaction import shown

_FENCED = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL)
_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class UnusableReply(Exception):
    """The judge's reply is not a review; the message says why."""


class _Open(BaseModel):
    model_config = ConfigDict(extra="ignore")  # weights, totals and the like: what counts is computed here


class _Score(_Open):
    score: _Number
    reason: str = ""


class _Part(_Open):
    criteria: dict[str, _Score]
    summary: str | None = None
    turn: Annotated[int, Field(strict=True)] | None = None


class _Answer(_Open):
    event_reviews: list[_Part] | None = None
    outcome_review: _Part | None = None


def read_review(text: str, rubrics: Rubrics, n_turns: int) -> Review:
    """The review in ``text``. Raises UnusableReply."""
    answer = _parsed(text)
    events = _events(answer.event_reviews, rubrics.event, n_turns) if rubrics.event else None
    outcome = None
    if rubrics.outcome:
        if answer.outcome_review is None:
            raise UnusableReply("there is no outcome_review")
        outcome = _part(answer.outcome_review, rubrics.outcome, "outcome_review")
    return Review(events, outcome)


def _parsed(text: str) -> _Answer:
    """The text is one JSON object, alone or in one code fence."""
    stripped = text.strip()
    fenced = _FENCED.fullmatch(stripped)
    value = parse_json(fenced[1] if fenced else stripped)
    if not isinstance(value, Mapping):
        raise UnusableReply(f"it is not one JSON object: {shown(text)}")
    try:
        return _Answer.model_validate(value)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise UnusableReply(shown(f"{place}: {problem['msg']}")) from None


def _events(parts: list[_Part] | None, rubric: Rubric, n_turns: int) -> tuple[PartReview, ...]:
    found = parts or []
    if len(found) != n_turns:
        raise UnusableReply(f"it reviews {len(found)} turns of {n_turns}")
    for at, part in enumerate(found):
        if part.turn not in (None, at):
            raise UnusableReply(f"event_reviews.{at} is about turn {part.turn}")
    return tuple(_part(part, rubric, f"event_reviews.{at}") for at, part in enumerate(found))


def _part(part: _Part, rubric: Rubric, where: str) -> PartReview:
    by_id = {one.id: one for one in rubric.criteria}
    if unknown := sorted(part.criteria.keys() - by_id.keys()):
        raise UnusableReply(shown(f"{where} scores {unknown[0]!r}, which the rubric does not have"))
    scored = {one.id: _scored(one, part.criteria[one.id], where) for one in rubric.criteria if one.id in part.criteria}
    total = aggregate(rubric, {name: one.score for name, one in scored.items()})
    if total.value is None or not math.isfinite(total.value):
        raise UnusableReply(f"{where} lacks a score for {', '.join(total.missing)}")
    return PartReview(scored, total.value, total.missing, shortened(part.summary or ""))


def _scored(criterion: Criterion, given: _Score, where: str) -> Scored:
    if not SCALES[criterion.scale](given.score):
        raise UnusableReply(f"{where}.{criterion.id} is {given.score:g}, not {SCALE_WORDS[criterion.scale]}")
    return Scored(given.score, shortened(given.reason), criterion.weight, criterion.description)
