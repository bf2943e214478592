"""Judges of runs and evaluations: from config sections to a judge with keys, client and cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from synth_ray.core.errors import ConfigError
from synth_ray.core.judge_sections import JudgeOptions, RewardBlend, RubricSection
from synth_ray.core.origins import read_origins
from synth_ray.core.paths import Home
from synth_ray.core.sections import RLConfig
from synth_ray.records.review_cache import ReviewCache
from synth_ray.rollout.judge.judge import Judge
from synth_ray.rollout.judge.rubric import Rubrics
from synth_ray.rollout.judge.rubric_file import judged_rubrics, load_rubrics, parse_rubrics
from synth_ray.rollout.remote.client import ChatClient, ClientLimits
from synth_ray.rollout.remote.retries import RetryBudget

_CACHE = "judge_cache.db"


@dataclass(frozen=True)
class JudgePlan:
    """Everything that a judge needs, in a form that travels; keys are read from ``env_file`` where it starts."""

    options: JudgeOptions
    rubrics: Rubrics
    env_file: str
    cache: Path


def plan_judge(options: JudgeOptions, rubrics: Rubrics | None, env_file: str, home: Home) -> JudgePlan:
    """A judge that can start: its place may be called, its key is there, it has a rubric.

    Raises ConfigError, NotFoundError or PrerequisiteError.
    """
    plan = JudgePlan(options, judged_rubrics(options, rubrics), env_file, home.state / _CACHE)
    read_origins(_path(env_file)).target(options.url)
    return plan


def plan_rl_judge(config: RLConfig, env_file: str, home: Home) -> JudgePlan | None:
    """The judge of an RL run; None if `[judge]` is off. Raises what ``plan_judge`` raises."""
    if rl_rubrics(config) is None or config.judge.options is None:
        return None
    return plan_judge(config.judge.options, given_rubrics(config.rubric), env_file, home)


def rl_rubrics(config: RLConfig) -> Rubrics | None:
    """What the judge of an RL run scores; None if `[judge]` is off. Needs no keys.

    Raises NotFoundError or ConfigError for a rubric that is not there or scores nothing that is paid for.
    """
    if not config.judge.enabled or config.judge.options is None:
        return None
    rubrics = judged_rubrics(config.judge.options, given_rubrics(config.rubric))
    check_blend(config.reward_blend, rubrics)
    return rubrics


def given_rubrics(section: RubricSection) -> Rubrics | None:
    """The rubrics that `[rubric]` names or holds, if it does."""
    if section.inline:
        return parse_rubrics(section.inline, section.strict, "rubric.inline")
    return load_rubrics(section.path, section.strict) if section.path else None


def check_blend(blend: RewardBlend, rubrics: Rubrics) -> None:
    """ConfigError if the blend pays for scores that nobody gives."""
    for name, rubric in (("event", rubrics.event), ("outcome", rubrics.outcome)):
        if getattr(blend, name) > 0 and rubric is None:
            raise ConfigError(
                f"reward_blend.{name} is {getattr(blend, name):g}, but the judge gives no {name} scores",
                f"use a rubric with {name} criteria and judge.options.{name} = true",
            )


def start_judge(plan: JudgePlan) -> Judge:
    """The judge, for the event loop that will use it. Raises what ``plan_judge`` and ``ReviewCache`` raise."""
    client = ChatClient(ClientLimits(budget=RetryBudget(attempts=plan.options.attempts)))
    cache = ReviewCache(plan.cache) if plan.options.cache else None
    return Judge(plan.options, plan.rubrics, read_origins(_path(plan.env_file)), client, cache)


def _path(env_file: str) -> Path | None:
    return Path(env_file) if env_file else None
