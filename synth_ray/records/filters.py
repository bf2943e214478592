"""From traces to fine-tuning data: which episodes are good enough, and which of their turns teach something.

An episode is dropped by the first rule that it breaks, so the counts of a report add up to what was read. Knows nothing
about files.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from synth_ray.core.config import Section
from synth_ray.core.errors import NotFoundError
from synth_ray.core.types import Rollout, Turn
from synth_ray.records.chat_formats import FORMATS


class FilterConfig(Section):
    """The ``[filter]`` section. Empty lists and absent values do not restrict."""

    db: Path
    """Trace database to read."""
    output: Path
    """JSONL file to write; ``<output>.meta.json`` goes beside it."""
    min_official_score: float | None = Field(default=None, allow_inf_nan=False)
    """Lowest outcome reward to keep."""
    max_official_score: float | None = Field(default=None, allow_inf_nan=False)
    """Highest outcome reward to keep."""
    min_judge_scores: Mapping[str, float] = {}
    """Lowest score to keep, by judge; an episode without that judge's score is dropped."""
    max_judge_scores: Mapping[str, float] = {}
    """Highest score to keep, by judge; an episode without that judge's score is dropped."""
    models: tuple[str, ...] = ()
    """Models whose episodes to keep."""
    task_ids: tuple[str, ...] = ()
    """Tasks whose episodes to keep."""
    splits: tuple[str, ...] = ()
    """Splits to keep; an episode's split is the entry ``split`` of the metadata it was stored with."""
    required_achievements: tuple[str, ...] = ()
    """Achievements that an episode must all have."""
    max_invalid_turns: int | None = Field(default=None, ge=0)
    """Most turns with an unusable reply that an episode may have."""
    drop_turn_kinds: tuple[str, ...] = ()
    """Leaves out turns whose reply has this ``kind``; ``invalid`` stands for every unusable reply."""
    limit: int | None = Field(default=None, ge=1)
    """Most episodes to keep."""
    shuffle: bool = False
    """Shuffles the episodes before ``limit`` is applied; the turns of an episode stay together."""
    shuffle_seed: int | None = None
    """Fixes the shuffle; 0 if absent."""
    format: Literal["openai", "trl"] = "openai"
    """How tool calls are written."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        low, high = self.min_official_score, self.max_official_score
        if low is not None and high is not None and low > high:
            raise ValueError("min_official_score is above max_official_score")
        for name in self.min_judge_scores.keys() & self.max_judge_scores.keys():
            if self.min_judge_scores[name] > self.max_judge_scores[name]:
                raise ValueError(f"min_judge_scores.{name} is above max_judge_scores.{name}")
        if self.shuffle_seed is not None and not self.shuffle:
            raise ValueError("shuffle_seed needs shuffle = true")
        return self


@dataclass(frozen=True, slots=True)
class FilterReport:
    """What a filter did. ``dropped`` counts episodes and ``dropped_turns`` turns of kept episodes, by rule."""

    episodes_read: int
    episodes_kept: int
    lines: int
    dropped: Mapping[str, int]
    dropped_turns: Mapping[str, int]
    best_score: float | None


@dataclass(frozen=True, slots=True)
class FilterResult:
    """The kept lines, ready to be written, and the report."""

    examples: tuple[dict[str, Any], ...]
    report: FilterReport


def filter_rollouts(
    rollouts: Iterable[Rollout], config: FilterConfig, metadata: Mapping[str, Mapping[str, Any]] | None = None
) -> FilterResult:
    """Applies the rules, then shuffle and limit, and makes one line per turn that is left.

    ``metadata`` holds by rollout id what was stored with it: its ``split`` and ``judge_scores``. Raises NotFoundError
    if no line is left.
    """
    kept: list[Rollout] = []
    dropped: Counter[str] = Counter()
    scores: list[float] = []
    for rollout in rollouts:
        scores.append(rollout.outcome)
        rule = _broken_rule(rollout, config, (metadata or {}).get(rollout.rollout_id, {}))
        if rule:
            dropped[rule] += 1
        else:
            kept.append(rollout)
    if config.shuffle:
        random.Random(config.shuffle_seed or 0).shuffle(kept)  # noqa: S311 (not for secrets)
    chosen = kept[: config.limit]
    if len(chosen) < len(kept):
        dropped["limit"] = len(kept) - len(chosen)
    lines, dropped_turns = _lines(chosen, config)
    best = max(scores, default=None)
    report = FilterReport(len(scores), len(chosen), len(lines), dict(dropped), dict(dropped_turns), best)
    if not lines:
        raise _nothing_left(config, report)
    return FilterResult(tuple(lines), report)


def _below(rollout: Rollout, config: FilterConfig) -> bool:
    return config.min_official_score is not None and rollout.outcome < config.min_official_score


def _above(rollout: Rollout, config: FilterConfig) -> bool:
    return config.max_official_score is not None and rollout.outcome > config.max_official_score


def _other_model(rollout: Rollout, config: FilterConfig) -> bool:
    return bool(config.models) and rollout.model not in config.models


def _other_task(rollout: Rollout, config: FilterConfig) -> bool:
    return bool(config.task_ids) and rollout.task not in config.task_ids


def _lacks_achievement(rollout: Rollout, config: FilterConfig) -> bool:
    return not set(config.required_achievements) <= set(rollout.achievements)


def _too_many_invalid(rollout: Rollout, config: FilterConfig) -> bool:
    return config.max_invalid_turns is not None and rollout.invalid_turns > config.max_invalid_turns


RULES: Mapping[str, Callable[[Rollout, FilterConfig], bool]] = {
    "models": _other_model,
    "task_ids": _other_task,
    "min_official_score": _below,
    "max_official_score": _above,
    "required_achievements": _lacks_achievement,
    "max_invalid_turns": _too_many_invalid,
}


def _broken_rule(rollout: Rollout, config: FilterConfig, metadata: Mapping[str, Any]) -> str:
    if config.splits and metadata.get("split") not in config.splits:
        return "splits"
    given = metadata.get("judge_scores")
    scores = given if isinstance(given, Mapping) else {}
    if not all(_number(scores.get(name)) >= low for name, low in config.min_judge_scores.items()):
        return "min_judge_scores"
    if not all(_number(scores.get(name)) <= high for name, high in config.max_judge_scores.items()):
        return "max_judge_scores"
    return next((name for name, breaks in RULES.items() if breaks(rollout, config)), "")


def _number(score: Any) -> float:
    """A score that is missing or no number is NaN, which no bound lets through."""
    return float(score) if isinstance(score, int | float) and not isinstance(score, bool) else math.nan


def _lines(rollouts: Sequence[Rollout], config: FilterConfig) -> tuple[list[dict[str, Any]], Counter[str]]:
    lines: list[dict[str, Any]] = []
    dropped: Counter[str] = Counter()
    for rollout in rollouts:
        for turn in rollout.turns:
            if _kinds(turn) & set(config.drop_turn_kinds):
                dropped["drop_turn_kinds"] += 1
                continue
            try:
                lines.append(_line(rollout, turn, config.format))
            except ValueError:
                dropped["format"] += 1
    return lines, dropped


def _kinds(turn: Turn) -> set[str]:
    kind = turn.reply.extra.get("kind")
    return ({str(kind)} if kind else set()) | ({"invalid"} if turn.facts.problem is not None else set())


def _line(rollout: Rollout, turn: Turn, format_name: str) -> dict[str, Any]:
    """One turn as a line. Raises ValueError if its tool calls do not fit the format."""
    extra = {key: value for key, value in turn.reply.extra.items() if key != "kind"}
    reply = {**extra, "role": "assistant", "content": turn.reply.text}
    metadata = {
        "rollout_id": rollout.rollout_id,
        "turn": turn.index,
        "seed": rollout.seed,
        "reward": rollout.outcome,
        "model": rollout.model,
        "achievements": list(rollout.achievements),
    }
    if "kind" in turn.reply.extra:
        metadata["kind"] = turn.reply.extra["kind"]  # a label for people and filters, not part of any chat format
    messages = FORMATS[format_name]([*(message.as_dict() for message in turn.messages), reply])
    return {"messages": messages, "metadata": metadata}


def _nothing_left(config: FilterConfig, report: FilterReport) -> NotFoundError:
    counts = {**report.dropped, **report.dropped_turns}
    if not report.episodes_read:
        return NotFoundError(f"{config.db} holds no episodes", "run an evaluation with --trace-db first")
    worst = max(counts, key=lambda rule: counts[rule], default="")
    hint = f"the rule {worst!r} dropped most ({counts[worst]})" if worst else "no episode has a turn"
    return NotFoundError(
        f"none of the {report.episodes_read} episodes in {config.db} is left",
        f"{hint}; the best score seen is {report.best_score:g}",
        dropped=counts,
    )
