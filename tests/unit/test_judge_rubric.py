"""Rubrics: both forms, clear errors, and the arithmetic of totals."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth_ray.core.errors import ConfigError, NotFoundError
from synth_ray.core.judge_sections import JudgeOptions
from synth_ray.rollout.judge.rubric import AGGREGATIONS, SCALES, Criterion, Rubric, aggregate
from synth_ray.rollout.judge.rubric_file import judged_rubrics, load_rubrics, parse_rubrics

RUBRICS = sorted((Path(__file__).resolve().parents[2] / "configs" / "rubrics").glob("*.json"))
ONE = {"id": "a", "description": "how good"}
unit = st.floats(0, 1)
weights = st.floats(1e-3, 1e3)


def rubric(*given_weights: float, required: int | None = None, aggregation: str = "weighted_sum") -> Rubric:
    made = tuple(Criterion(f"c{at}", "d", weight, required=at == required) for at, weight in enumerate(given_weights))
    return Rubric(made, aggregation)


@st.composite
def scored(draw: st.DrawFn) -> tuple[Rubric, dict[str, float]]:
    made = rubric(*draw(st.lists(weights, min_size=1, max_size=6)))
    return made, {one.id: draw(unit) for one in made.criteria}


def test_totals_by_hand() -> None:
    scores = {"c0": 1.0, "c1": 0.5}
    assert aggregate(rubric(3, 1), scores).value == pytest.approx(3.5 / 4)
    assert aggregate(rubric(3, 1, aggregation="sum"), scores).value == pytest.approx(1.5)


@given(scored())
def test_a_weighted_sum_is_between_its_scores_and_does_not_know_the_unit_of_weights(case: Any) -> None:
    made, scores = case
    total = aggregate(made, scores).value
    assert total is not None
    assert min(scores.values()) - 1e-12 <= total <= max(scores.values()) + 1e-12
    doubled = rubric(*(2 * one.weight for one in made.criteria))
    assert aggregate(doubled, scores).value == pytest.approx(total, abs=1e-12)
    backwards = Rubric(made.criteria[::-1])
    assert aggregate(backwards, scores).value == total


@given(scored(), st.integers(0, 5), unit)
def test_a_weighted_sum_rises_with_every_score(case: Any, at: int, more: float) -> None:
    made, scores = case
    name = f"c{at % len(scores)}"
    raised = {**scores, name: max(scores[name], more)}
    before, after = aggregate(made, scores).value, aggregate(made, raised).value
    assert before is not None and after is not None and after >= before - 1e-12


@given(scored(), st.sampled_from(["weighted_sum", "sum"]))
def test_the_others_stand_for_a_missing_criterion(case: Any, aggregation: str) -> None:
    made, scores = case
    made = Rubric((*made.criteria, Criterion("gone", "d", 7.0)), aggregation)
    total = aggregate(made, scores)
    assert total.missing == ("gone",)
    others = aggregate(Rubric(made.criteria[:-1], aggregation), scores).value
    assert total.value is not None and others is not None
    if aggregation == "weighted_sum":
        assert total.value == pytest.approx(others)
    else:
        stand_in = math.fsum(scores.values()) / len(scores)
        assert total.value == pytest.approx(others + stand_in)


@given(scored(), st.sampled_from(["weighted_sum", "sum"]))
def test_a_required_criterion_is_a_gate(case: Any, aggregation: str) -> None:
    made, scores = case
    gate = Criterion("gate", "d", 1.0, required=True)
    made = Rubric((gate, *made.criteria), aggregation)
    assert aggregate(made, {**scores, "gate": 0.0}).value == 0.0
    assert aggregate(made, scores).value is None
    assert aggregate(made, scores).missing == ("gate",)
    passed = aggregate(made, {**scores, "gate": 0.5}).value
    assert passed is not None and passed > 0


def test_nothing_scored_is_no_total_and_foreign_ids_are_errors() -> None:
    assert aggregate(rubric(1, 1), {}).value is None
    with pytest.raises(ValueError, match="'other'"):
        aggregate(rubric(1), {"other": 1.0})


def test_a_tasks_form_scores_rollouts_and_a_judges_form_both() -> None:
    task = parse_rubrics({"version": 2, "goal_text": "g", "criteria": [ONE], "aggregation": "sum"})
    assert task.event is None and task.outcome is not None
    assert (task.outcome.aggregation, task.outcome.version, task.outcome.goal) == ("sum", "2", "g")
    assert task.outcome.criteria == (Criterion("a", "how good"),)
    both = parse_rubrics({"event": [ONE], "outcome": [{**ONE, "scale": "count", "required": True, "weight": 0.5}]})
    assert both.event is not None and both.outcome is not None
    assert both.outcome.criteria == (Criterion("a", "how good", 0.5, True, "count"),)
    assert parse_rubrics({"event": [ONE]}).outcome is None
    assert both.digest != task.digest == parse_rubrics({"version": "2", "goal_text": "g", "criteria": [ONE],
                                                        "aggregation": "sum"}).digest  # fmt: skip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "needs criteria"),
        ({"criteria": [ONE], "event": [ONE]}, "either criteria"),
        ({"criteria": [ONE, ONE]}, "'a' is there twice"),
        ({"event": [ONE, ONE]}, "'a' is there twice"),
        ({"criteria": [{**ONE, "weight": 0}]}, "weight.*greater than 0"),
        ({"criteria": [{**ONE, "weight": math.inf}]}, "weight"),
        ({"criteria": [{**ONE, "wieght": 1}]}, "unknown key 'rubric.criteria.wieght'"),
        ({"criteria": [{"id": "a"}]}, "description' is required"),
        ({"criteria": [{**ONE, "id": "a b"}]}, "criteria.id"),
        ({"criteria": [{**ONE, "scale": "stars"}]}, "scale"),
        ({"criteria": [ONE], "aggregation": "custom"}, "custom aggregation is not known"),
        ({"criteria": [ONE], "aggregation": "inherit"}, "nothing to inherit"),
    ],
)
def test_mistakes_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_rubrics(values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": ""}, "needs version"),
        ({"goal_text": " "}, "needs goal_text"),
        ({"aggregation": "sum"}, "not a sum"),
        ({"criteria": [{**ONE, "weight": 0.999}]}, "sum to 0.999"),
        ({"criteria": [{**ONE, "weight": 1.5}]}, "sum to 1.5"),
    ],
)
def test_strict_wants_more(changes: dict[str, Any], message: str) -> None:
    whole: dict[str, Any] = {"version": "1", "goal_text": "g", "criteria": [{**ONE, "weight": 1 + 9e-7}]}
    parse_rubrics(whole, strict=True)
    parse_rubrics({**whole, **changes})
    with pytest.raises(ConfigError, match=message):
        parse_rubrics({**whole, **changes}, strict=True)


@pytest.mark.parametrize("path", RUBRICS, ids=lambda path: path.stem)
def test_shipped_rubrics_are_strict_and_ask_for_nothing_impossible(path: Path) -> None:
    rubrics = load_rubrics(path.stem, strict=True)
    assert rubrics == load_rubrics(str(path), strict=True)
    assert rubrics.outcome is not None
    text = " ".join(one.description for part in (rubrics.event, rubrics.outcome) if part for one in part.criteria)
    assert max(map(float, re.findall(r"\d+(?:\.\d+)?", text))) <= 9, "health, items and the like end at 9"


def test_files_that_are_no_rubric(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        load_rubrics("no-such")
    assert "crafter" in caught.value.hint
    for name, text in (("a.json", "{"), ("b.json", "[]"), ("c.json", "[" * 100_000), ("d.toml", "=")):
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match=name):
            load_rubrics(str(tmp_path / name))
    (tmp_path / "e.toml").write_text('[[criteria]]\nid = "a"\ndescription = "how good"\n')
    (tmp_path / "f.json").write_text(json.dumps({"criteria": [ONE]}))
    assert load_rubrics(str(tmp_path / "e.toml")) == load_rubrics(str(tmp_path / "f.json"))


def options(**changes: Any) -> JudgeOptions:
    return JudgeOptions.model_validate({"provider": "http://127.0.0.1:1", "model": "m", **changes})


def test_options_choose_replace_and_weigh() -> None:
    shipped = load_rubrics("crafter")
    assert judged_rubrics(options(rubric_id="crafter")) == shipped
    assert judged_rubrics(options(rubric_id="crafter", event=False)).event is None
    assert judged_rubrics(options(), shipped) == shipped
    own = {"criteria": [{"id": "progress.unique", "description": "d", "weight": 0.9, "scale": "binary"},
                        {"id": "process.intent", "description": "d", "weight": 0.1}]}  # fmt: skip
    changed = judged_rubrics(options(rubric_id="crafter", rubric_overrides={"event": own}))
    assert changed.outcome == shipped.outcome and changed.event is not None
    assert [one.id for one in changed.event.criteria] == ["progress.unique", "process.intent"]
    assert changed.event.goal == shipped.outcome.goal if shipped.outcome else False
    weighed = judged_rubrics(options(rubric_overrides={"event": own}, weights={"progress": 2, "process": 0, "else": 3}))
    assert weighed.event is not None
    assert [(one.id, one.weight) for one in weighed.event.criteria] == [("progress.unique", 1.8)]


def test_every_option_is_documented(checkout: Path) -> None:
    text = (checkout / "docs" / "judges.md").read_text()
    for name in [*JudgeOptions.model_fields, *SCALES, *AGGREGATIONS]:
        assert re.search(rf"\b{name}\b", text), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "nothing to score"),
        ({"rubric_id": "crafter_outcome", "outcome": False}, "nothing to score"),
        ({"rubric_overrides": {"evnt": {}}}, "unknown key 'rubric_overrides.evnt'"),
        ({"rubric_overrides": {"event": {"event": [ONE]}}}, "needs criteria"),
        ({"rubric_overrides": {"event": [ONE]}}, "must be a table"),
    ],
)
def test_wrong_options_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        judged_rubrics(options(**changes))
