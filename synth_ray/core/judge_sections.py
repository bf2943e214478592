"""The TOML sections of judges and rubrics; each field is documented below it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from synth_ray.core.config import Section
from synth_ray.core.origins import VENDORS
from synth_ray.core.urls import chat_url

_SERVICE_ONLY = frozenset({"metadata", "tracks"})  # for a hosted judge service; a chat endpoint has no use for them


def _judge_provider(value: str) -> str:
    if value == "remote" or value in VENDORS:
        return value
    if "://" not in value:
        known = ", ".join(sorted(VENDORS))
        raise ValueError(f"{value!r} is neither a URL nor one of {known}, remote; give the URL of its OpenAI-style API")
    return str(chat_url(value))


class RewardBlend(Section):
    """Weights of `env * return + event * sum(event scores) + outcome * outcome score`."""

    env: float = Field(1.0, ge=0, le=1e6)
    event: float = Field(0.0, ge=0, le=1e6)
    outcome: float = Field(0.0, ge=0, le=1e6)

    @model_validator(mode="after")
    def _not_all_zero(self) -> RewardBlend:
        if self.env == self.event == self.outcome == 0:
            raise ValueError("at least one of env, event and outcome must be above 0")
        return self


class JudgeOptions(Section):
    """`[judge.options]`: which model judges, by which rubric, at which cost."""

    provider: Annotated[str, AfterValidator(_judge_provider)]
    """`openai`, `groq`, a URL, or `remote` with its URL in `inference_url`."""
    model: str = Field(min_length=1)
    """The judge's name at its endpoint."""
    inference_url: str = ""
    rubric_id: str = ""
    """A shipped rubric such as `crafter`, or the path of a JSON or TOML file."""
    rubric_overrides: Mapping[str, Any] = {}
    """`event` and `outcome`: tables whose `criteria` take the place of the rubric's."""
    weights: Mapping[str, Annotated[float, Field(ge=0, le=1e6)]] = {}
    """Factors of the criteria's weights, by id or by what stands before its first dot; 0 leaves a criterion out."""
    event: bool = True
    """Whether turns are scored, if the rubric has criteria for them."""
    outcome: bool = True
    """Whether the rollout is scored, if the rubric has criteria for it."""
    timeout_s: float = Field(60, gt=0)
    """Longest that one request may take."""
    attempts: int = Field(3, ge=1, le=20)
    """Requests per review, if the endpoint fails in a way that may pass."""
    max_concurrency: int = Field(8, ge=1, le=1024)
    """Reviews in flight."""
    max_calls: int = Field(10_000, ge=0)
    """Reviews that a run may ask for; cached ones are free."""
    max_seconds: float = Field(3600, gt=0)
    """Seconds that a run may spend with a review in flight."""
    give_up_after: int = Field(8, ge=1)
    """Failures in a row after which only one review in 30 s is tried, until one succeeds."""
    temperature: float = Field(0.0, ge=0)
    max_tokens: int = Field(4096, ge=16)
    """Longest reply, with the thoughts of a thinking model."""
    max_trace_chars: int = Field(24_000, ge=1000)
    """Longest transcript; texts of long rollouts are cut."""
    body: Mapping[str, Any] = {}
    """Further request fields, passed on as they are, for example `response_format`."""
    cache: bool = True
    """Whether equal requests are answered from `judge_cache.db` in the state folder."""

    @model_validator(mode="before")
    @classmethod
    def _chat_only(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {key: value for key, value in values.items() if key not in _SERVICE_ONLY}

    @model_validator(mode="after")
    def _consistent(self) -> JudgeOptions:
        if bool(self.inference_url) != (self.provider == "remote"):
            raise ValueError('provider = "remote" and inference_url go together')
        if not (self.event or self.outcome):
            raise ValueError("one of event and outcome must be true")
        _ = self.url
        return self

    @property
    def vendor(self) -> str:
        """The vendor's name, or nothing."""
        return self.provider if self.provider in VENDORS else ""

    @property
    def url(self) -> str:
        """The chat completions URL."""
        vendor = VENDORS.get(self.provider)
        return str(chat_url(vendor.base_url if vendor else self.inference_url or self.provider))


class Judge(Section):
    """`[judge]`: whether and how rollouts are judged; docs/judges.md."""

    enabled: bool = False
    timeout_s: float = Field(300, gt=0)
    """Longest that a training step waits for its reviews; those that are late count as failed."""
    options: JudgeOptions | None = None
    reward_blend: RewardBlend | None = None
    """What the scores are worth; `env = 1` and nothing else if absent."""

    @model_validator(mode="after")
    def _explicit(self) -> Judge:
        if self.enabled and self.options is None:
            raise ValueError("an enabled judge needs [judge.options] with provider and model")
        if self.options is not None and "enabled" not in self.model_fields_set:
            raise ValueError("[judge.options] names a judge; write enabled = true under [judge] to ask it, else false")
        return self


class RubricSection(Section):
    """`[rubric]`: what is judged, if `[judge.options]` does not say."""

    enabled: bool = False
    """Whether `weights` count, like `[judge.reward_blend]`."""
    path: str = ""
    """A shipped rubric such as `crafter`, or the path of a JSON or TOML file."""
    inline: Mapping[str, Any] = {}
    """The rubric itself, as it would stand in a file."""
    strict: bool = False
    """Whether the rubric must have a version, a goal, and weights that sum to 1."""
    weights: RewardBlend | None = None

    @model_validator(mode="after")
    def _one_place(self) -> RubricSection:
        if self.path and self.inline:
            raise ValueError("give path or inline, not both")
        return self


def reward_blend(judge: Judge, rubric: RubricSection) -> RewardBlend:
    """The blend that the two sections ask for. ValueError if both do, or if nobody judges what it pays for."""
    old = rubric.weights if rubric.enabled else None
    if judge.reward_blend and old:
        raise ValueError("judge.reward_blend and rubric.weights say the same thing; keep judge.reward_blend")
    if old and not judge.enabled and (old.event or old.outcome):
        raise ValueError("rubric.weights pay for scores, but judge.enabled is false")
    if judge.options and judge.options.rubric_id and (rubric.path or rubric.inline):
        raise ValueError("judge.options.rubric_id and [rubric] both name a rubric; keep one")
    return judge.reward_blend or old or RewardBlend()


class EvalJudge(JudgeOptions):
    """`[eval.judge]`: a judge of evaluation rollouts."""

    name: str = Field("judge", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    """What its score is called in the traces and in `min_judge_scores` of a filter."""


def named_judges(values: Any) -> Any:
    """`judge` (one table, or tables by name) and `judges` (a list) of `[eval]` as one list under ``judges``."""
    if not isinstance(values, Mapping) or "judge" not in values:
        return values
    one, listed = values["judge"], values.get("judges", [])
    if not isinstance(one, Mapping) or not isinstance(listed, list | tuple):
        return values
    by_name = bool(one) and all(isinstance(table, Mapping) for table in one.values())
    own = [{"name": name, **table} for name, table in one.items()] if by_name else [one]
    return {**{key: value for key, value in values.items() if key != "judge"}, "judges": [*own, *listed]}


class Calibrate(Section):
    """`[calibrate]`: which stored rollouts a judge is measured on."""

    trace_db: str = "traces/crafter.db"
    """Trace database; relative to the project."""
    models: tuple[str, ...] = ()
    """Models whose rollouts to take; all if empty."""
    run_id: str = ""
    """The job or run whose rollouts to take; all if empty."""
    limit: int | None = Field(None, ge=1)
    """Most rollouts to take, lowest seeds first."""


class CalibrateConfig(Section):
    """A TOML for `synth-ray judge calibrate`; `[judge]` here holds what `[judge.options]` holds elsewhere."""

    judge: JudgeOptions
    calibrate: Calibrate = Calibrate()
