"""From traces to fine-tuning data: which episodes are good enough, and which of their turns teach something.

An episode is dropped by the first rule that it breaks, so the counts of a report add up to what was read. Knows nothing
about files.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from synth_ray.core.config import Section
from synth_ray.core.errors import NotFoundError
from synth_ray.core.hashing import canonical_json, sha256_text
from synth_ray.core.types import Rollout, Turn
from synth_ray.records.chat_formats import FORMATS

Metadata = Mapping[str, Mapping[str, Any]]
"""What each episode was stored with, by rollout id."""
_Episode = tuple[str, str, str, int, int, int, int]
Moment = Annotated[datetime, AfterValidator(lambda time: time if time.tzinfo else time.replace(tzinfo=UTC))]
"""A point in time: ISO 8601 or seconds since 1970; UTC unless it says otherwise."""


# What chat templates and other trainers call it.
_EXPORTED = {"reasoning": "reasoning_content"}


class FilterConfig(Section):
    """The ``[filter]`` section. Empty lists and absent values do not restrict."""

    db: Path
    """Trace database to read."""
    output: Path
    """JSONL file to write; ``<output>.meta.json`` goes beside it."""
    keep_unfinished: bool = False
    """Keeps episodes that an error or a deadline ended, unless they were played again."""
    min_official_score: float | None = None
    """Lowest outcome reward to keep."""
    max_official_score: float | None = None
    """Highest outcome reward to keep."""
    min_judge_scores: Mapping[str, float] = {}
    """Lowest score by judge, from the metadata entry ``judge_scores``; an episode without the score is dropped."""
    max_judge_scores: Mapping[str, float] = {}
    """Highest score by judge."""
    min_created_at: Moment | None = None
    """Earliest start of an episode."""
    max_created_at: Moment | None = None
    """Latest start of an episode."""
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
    deduplicate: bool = False
    """Leaves out a turn whose messages, reply included, are those of an earlier line."""
    offset: int = Field(0, ge=0)
    """Episodes to skip, after ``shuffle``."""
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
        ranges: list[tuple[str, Any, Any]] = [
            ("official_score", self.min_official_score, self.max_official_score),
            ("created_at", self.min_created_at, self.max_created_at),
        ]
        both = sorted(self.min_judge_scores.keys() & self.max_judge_scores.keys())
        ranges += [(f"judge_scores.{key}", self.min_judge_scores[key], self.max_judge_scores[key]) for key in both]
        for name, low, high in ranges:
            if low is not None and high is not None and low > high:
                raise ValueError(f"min_{name} is above max_{name}")
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
    rollouts: Iterable[Rollout], config: FilterConfig, metadata: Metadata | None = None
) -> FilterResult:
    """Applies the rules, then shuffle, offset and limit, and makes one line per turn that is left.

    Raises NotFoundError if no line is left.
    """
    kept: list[Rollout] = []
    dropped: Counter[str] = Counter()
    finished: set[_Episode] = set()
    scores: list[float] = []
    for rollout in rollouts:
        scores.append(rollout.outcome)
        rule = _broken_rule(rollout, config, (metadata or {}).get(rollout.rollout_id, {}))
        if rule:
            dropped[rule] += 1
        else:
            kept.append(rollout)
        finished.update([_episode(rollout)] if rollout.ok else [])
    read, kept = len(kept), _last_attempts(kept, finished)
    dropped["played_again"] = read - len(kept)
    if config.shuffle:
        random.Random(config.shuffle_seed or 0).shuffle(kept)  # noqa: S311 (not for secrets)
    skipped, rest = kept[: config.offset], kept[config.offset :]
    chosen = rest[: config.limit]
    dropped.update({"offset": len(skipped), "limit": len(rest) - len(chosen)})
    dropped = +dropped
    lines, dropped_turns = _lines(chosen, config, metadata or {})
    best = max(scores, default=None)
    report = FilterReport(len(scores), len(chosen), len(lines), dict(dropped), dict(dropped_turns), best)
    if not lines:
        raise _nothing_left(config, report)
    return FilterResult(tuple(lines), report)


def _episode(rollout: Rollout) -> _Episode:
    """What all attempts at one episode have in common."""
    return rollout.run_id, rollout.task, rollout.model, rollout.seed, rollout.step, rollout.group, rollout.index


def _last_attempts(rollouts: Sequence[Rollout], finished: set[_Episode]) -> list[Rollout]:
    """``rollouts`` without unfinished attempts at episodes that ``finished`` names, or that a later one stands for."""
    in_order = sorted((one for one in rollouts if not one.ok), key=lambda one: one.started_at)
    last = {_episode(one): one.rollout_id for one in in_order if _episode(one) not in finished}
    return [one for one in rollouts if one.ok or last.get(_episode(one)) == one.rollout_id]


def _unfinished(rollout: Rollout, config: FilterConfig, _: Mapping[str, Any]) -> bool:
    return not (rollout.ok or config.keep_unfinished)


def _below(rollout: Rollout, config: FilterConfig, _: Mapping[str, Any]) -> bool:
    return config.min_official_score is not None and rollout.outcome < config.min_official_score


def _above(rollout: Rollout, config: FilterConfig, _: Mapping[str, Any]) -> bool:
    return config.max_official_score is not None and rollout.outcome > config.max_official_score


def _other_model(rollout: Rollout, config: FilterConfig, _: Mapping[str, Any]) -> bool:
    return bool(config.models) and rollout.model not in config.models


def _other_task(rollout: Rollout, config: FilterConfig, _: Mapping[str, Any]) -> bool:
    return bool(config.task_ids) and rollout.task not in config.task_ids


def _other_split(_: Rollout, config: FilterConfig, metadata: Mapping[str, Any]) -> bool:
    return bool(config.splits) and metadata.get("split") not in config.splits


def _lacks_achievement(rollout: Rollout, config: FilterConfig, _: Mapping[str, Any]) -> bool:
    return not set(config.required_achievements) <= set(rollout.achievements)


def _too_many_invalid(rollout: Rollout, config: FilterConfig, _: Mapping[str, Any]) -> bool:
    return config.max_invalid_turns is not None and rollout.invalid_turns > config.max_invalid_turns


def _judged_below(_: Rollout, config: FilterConfig, metadata: Mapping[str, Any]) -> bool:
    scores = _judge_scores(metadata)
    return any(name not in scores or scores[name] < low for name, low in config.min_judge_scores.items())


def _judged_above(_: Rollout, config: FilterConfig, metadata: Mapping[str, Any]) -> bool:
    scores = _judge_scores(metadata)
    return any(name not in scores or scores[name] > high for name, high in config.max_judge_scores.items())


def _too_early(rollout: Rollout, config: FilterConfig, _: Mapping[str, Any]) -> bool:
    started = _started(rollout)
    return config.min_created_at is not None and (started is None or started < config.min_created_at)


def _too_late(rollout: Rollout, config: FilterConfig, _: Mapping[str, Any]) -> bool:
    started = _started(rollout)
    return config.max_created_at is not None and (started is None or started > config.max_created_at)


RULES: Mapping[str, Callable[[Rollout, FilterConfig, Mapping[str, Any]], bool]] = {
    "unfinished": _unfinished,
    "splits": _other_split,
    "models": _other_model,
    "task_ids": _other_task,
    "min_official_score": _below,
    "max_official_score": _above,
    "min_judge_scores": _judged_below,
    "max_judge_scores": _judged_above,
    "min_created_at": _too_early,
    "max_created_at": _too_late,
    "required_achievements": _lacks_achievement,
    "max_invalid_turns": _too_many_invalid,
}


def _broken_rule(rollout: Rollout, config: FilterConfig, metadata: Mapping[str, Any]) -> str:
    return next((name for name, breaks in RULES.items() if breaks(rollout, config, metadata)), "")


def _judge_scores(metadata: Mapping[str, Any]) -> dict[str, float]:
    scores = metadata.get("judge_scores")
    given = scores.items() if isinstance(scores, Mapping) else ()
    return {name: float(score) for name, score in given if isinstance(score, int | float)}


def _started(rollout: Rollout) -> datetime | None:
    try:
        started = datetime.fromisoformat(rollout.started_at)
    except ValueError:
        return None
    return started if started.tzinfo else started.replace(tzinfo=UTC)


def _lines(
    rollouts: Sequence[Rollout], config: FilterConfig, about: Metadata
) -> tuple[list[dict[str, Any]], Counter[str]]:
    lines: list[dict[str, Any]] = []
    dropped: Counter[str] = Counter()
    seen: set[str] = set()
    for rollout in rollouts:
        for turn in rollout.turns:
            if _kinds(turn) & set(config.drop_turn_kinds):
                dropped["drop_turn_kinds"] += 1
                continue
            try:
                line = _line(rollout, turn, config.format, about.get(rollout.rollout_id, {}).get("tools"))
            except ValueError:
                dropped["format"] += 1
                continue
            key = sha256_text(canonical_json(line["messages"])) if config.deduplicate else ""
            if key in seen:
                dropped["deduplicate"] += 1
                continue
            seen.update([key] if key else [])
            lines.append(line)
    return lines, dropped


def _kinds(turn: Turn) -> set[str]:
    kind = turn.reply.extra.get("kind")
    return ({str(kind)} if kind else set()) | ({"invalid"} if turn.facts.problem is not None else set())


def _line(rollout: Rollout, turn: Turn, format_name: str, tools: Any) -> dict[str, Any]:
    """One turn as a line, with ``tools`` if it called one. Raises ValueError if its calls do not fit the format."""
    extra = {_EXPORTED.get(key, key): value for key, value in turn.reply.extra.items() if key != "kind"}
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
    offered = {"tools": tools} if tools and turn.reply.extra.get("tool_calls") else {}
    return {"messages": messages, **offered, "metadata": metadata}


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
