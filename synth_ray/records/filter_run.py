"""A filter from configuration to file: traces in, JSONL and its sidecar out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from synth_ray.core.config import Section, load_config
from synth_ray.core.hashing import canonical_json, sha256_file
from synth_ray.records.filters import FilterConfig, FilterReport, FilterResult, filter_rollouts
from synth_ray.records.sft_data import meta_path, write_sft
from synth_ray.records.traces import SessionQuery, TraceDB


class FilterFile(Section):
    """What a filter's TOML file holds."""

    filter: FilterConfig
    """The rules, the database and the output."""


def run_filter(files: Sequence[Path], sets: Sequence[str], project: Path) -> dict[str, Any]:
    """Filters as the TOML ``files`` and ``sets`` say; relative paths are in ``project``. Returns the report as JSON.

    Its ``warnings`` name keys without effect.

    Raises what ``load_config`` and ``apply_filter`` raise.
    """
    resolved = load_config(FilterFile, files, sets)
    given = resolved.config.filter
    config = given.model_copy(update={"db": project / given.db, "output": project / given.output})
    report = apply_filter(config).report
    paths = {"db": str(config.db), "output": str(config.output), "meta": str(meta_path(config.output))}
    return {**asdict(report), **paths, "warnings": list(resolved.warnings)}


def apply_filter(config: FilterConfig) -> FilterResult:
    """Reads ``config.db``, writes ``config.output`` and its sidecar.

    Raises NotFoundError if nothing is left, with a hint that names the rule that dropped most; nothing is written then.
    """
    with TraceDB(config.db, read_only=True) as database:
        by_seed = SessionQuery(order="seed")  # the order in which episodes finished differs from run to run
        tools: dict[str, Any] = {}
        metadata = {one.rollout_id: _asked_for(one.metadata, tools) for one in database.sessions(by_seed)}
        result = filter_rollouts(database.rollouts(by_seed), config, metadata)
    write_sft(config.output, result.examples, _meta(config, result.report))
    return result


def _asked_for(metadata: Mapping[str, Any], tools: dict[str, Any]) -> dict[str, Any]:
    """What rules and lines look at; the rest, such as whole reviews, need not be kept in memory.

    ``tools`` holds each list of tools once, because most episodes share theirs.
    """
    found = {name: metadata[name] for name in ("split", "judge_scores") if name in metadata}
    if offered := metadata.get("tools"):
        found["tools"] = tools.setdefault(canonical_json(offered), offered)
    return found


def _meta(config: FilterConfig, report: FilterReport) -> dict[str, Any]:
    return {
        "schema": "synth-ray/sft.meta/1",
        "source": {"path": str(config.db.resolve()), "sha256": sha256_file(config.db)},
        "filter": config.model_dump(mode="json"),
        "episodes_read": report.episodes_read,
        "episodes": report.episodes_kept,
        "lines": report.lines,
        "dropped": report.dropped,
        "dropped_turns": report.dropped_turns,
        "loss_on": "the assistant message at the end of each line",
    }
