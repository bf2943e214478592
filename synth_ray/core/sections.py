"""One pydantic model per TOML section, documented under the field. There are no second defaults elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from synth_ray.core.config import Section
from synth_ray.core.judge_sections import EvalJudge, Judge, RewardBlend, RubricSection, named_judges, reward_blend
from synth_ray.core.origins import VENDORS
from synth_ray.core.urls import chat_url

_PROVIDERS = ("engine", "expert", "remote", *VENDORS)


class Topology(Section):
    """How many GPUs each role gets; zero means CPU."""

    gpus_for_vllm: int = Field(0, ge=0)
    gpus_for_training: int = Field(0, ge=0)
    cpu_workers: int = Field(1, ge=1)
    """Workers that train if none has a GPU."""


class Compute(Section):
    """Where engine and trainer run."""

    gpu_type: str = ""
    """For people: which GPU the config was written for."""
    topology: Topology = Topology()


class VLLM(Section):
    """The inference engine."""

    max_model_len: int = Field(512, ge=16)
    """Longest prompt plus reply, in tokens."""
    max_num_seqs: int = Field(128, ge=1)
    """Sequences decoded together."""
    tensor_parallel_size: int = Field(1, ge=1)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto` is float32 on CPU and bfloat16 on GPU."""
    kv_cache_mib: int = Field(64, ge=8)
    """KV cache on CPU, in MiB; a GPU uses `gpu_memory_utilization` instead."""
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    max_lora_rank: int = Field(16, ge=1)
    max_loras: int = Field(2, ge=1)
    """Adapter versions that one batch can mix."""


class WithEngine(Section):
    """A TOML that says where the engine runs."""

    compute: Compute = Compute()
    vllm: VLLM = VLLM()

    @model_validator(mode="after")
    def _every_gpu_has_a_shard(self) -> WithEngine:
        gpus, shards = self.compute.topology.gpus_for_vllm, self.vllm.tensor_parallel_size
        if gpus not in (0, shards):
            raise ValueError(
                f"compute.topology.gpus_for_vllm = {gpus}, but the engine uses vllm.tensor_parallel_size = {shards}: "
                "the two must be equal"
            )
        return self


class Lora(Section):
    """The adapter that RL or fine-tuning trains."""

    r: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: list[str] | Literal["all-linear"] = "all-linear"


class ThinkingSwitch(Section):
    """The switch that chat templates of thinking models have."""

    thinking_mode: Literal["think", "no_think"] | None = None
    """How models are asked that can think or not; unset leaves it to their template."""

    @property
    def thinking(self) -> bool | None:
        """``thinking_mode`` as the template takes it."""
        return None if self.thinking_mode is None else self.thinking_mode == "think"


class Policy(ThinkingSwitch):
    """How a policy samples, for every provider; entries that only one provider knows go into `teacher`."""

    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    max_tokens: int = Field(64, ge=1)
    """Longest reply of one turn, in tokens."""
    teacher: Mapping[str, Any] = {}
    """Settings of the scripted teacher (`provider = "expert"`)."""


class EvalPolicy(Policy):
    """`[eval.policy_config]`: sampling, and for a remote model how it is asked."""

    inference_url: str = ""
    """Where a remote model answers (`provider = "remote"`); `/v1/chat/completions` is appended if it is missing."""
    request_timeout_s: float = Field(120, gt=0)
    """Longest that one request to a remote model may take; it is tried again within `rollout_timeout_s`."""
    body: Mapping[str, Any] = {}
    """Further fields of the request, such as `reasoning_effort`; `use_tools = false` asks for JSON text instead."""


def _provider(value: str) -> str:
    if value in _PROVIDERS:
        return value
    if "://" not in value:
        raise ValueError(f"{value!r} is neither a URL nor one of {', '.join(_PROVIDERS)}")
    return str(chat_url(value))


def _seed_list(value: Any) -> Any:
    seeds = parse_seeds(value) if isinstance(value, str) else value
    if isinstance(seeds, list) and len(set(map(str, seeds))) != len(seeds):
        raise ValueError("a seed is listed twice")
    if not seeds:
        raise ValueError("at least one seed is needed")
    return seeds


class Eval(Section):
    """`[eval]`: which model plays which seeds."""

    app_id: str = "grpo-crafter"
    model: str
    """A model id of the registry, a built-in name, a local folder, a hub id, a teacher's or a remote model's name."""
    provider: Annotated[str, AfterValidator(_provider)] = "engine"
    """Who answers: our `engine`, the scripted teacher (`expert`), `openai`, `groq`, a URL, or `remote` with its URL in
    `policy_config.inference_url`."""
    seeds: Annotated[list[int], BeforeValidator(_seed_list)]
    """A list, or ranges such as "0-9,20,30-39"; both ends are included."""
    max_turns: int = Field(10, ge=1)
    concurrency: int = Field(64, ge=1)
    calls_together: int = Field(1, ge=1, le=256)
    """Engine calls that may share one remote call: less overhead for small models; short replies wait for long ones."""
    split: str = "train"
    trace_db: str = "traces/crafter.db"
    env_config: Mapping[str, Any] = {}
    policy_config: EvalPolicy = EvalPolicy()
    rollout_timeout_s: float = Field(300, gt=0)
    turn_timeout_s: float = Field(180, gt=0)
    """Longest that one turn may take, with all attempts at a reply."""
    judges: tuple[EvalJudge, ...] = ()
    """Who else scores the rollouts; also `[eval.judge]`, or `[eval.judge.NAME]` for several."""

    @model_validator(mode="before")
    @classmethod
    def _judges(cls, values: Any) -> Any:
        return named_judges(values)

    @model_validator(mode="after")
    def _distinct_judges(self) -> Eval:
        if len({one.name for one in self.judges}) != len(self.judges):
            raise ValueError("two judges have the same name")
        return self

    @model_validator(mode="after")
    def _one_url(self) -> Eval:
        if bool(self.policy_config.inference_url) != (self.provider == "remote"):
            raise ValueError('provider = "remote" and policy_config.inference_url go together')
        if self.provider == "remote":
            chat_url(self.policy_config.inference_url)
        return self

    @property
    def remote_url(self) -> str:
        """The chat completions URL of a remote model; empty if the engine or a teacher answers."""
        if self.provider in ("engine", "expert"):
            return ""
        vendor = VENDORS.get(self.provider)
        given = self.policy_config.inference_url or self.provider
        return str(chat_url(vendor.base_url if vendor else given))


class EvalConfig(WithEngine):
    """An eval TOML."""

    eval: Eval


class RLAlgorithm(Section):
    """`[algorithm]` of RL."""

    type: Literal["online"] = "online"
    method: Literal["policy_gradient"] = "policy_gradient"
    variety: Literal["grpo", "gspo"] = "grpo"
    """`grpo`: token-level importance ratio; `gspo`: one ratio per reply."""


class RLModel(Section):
    """`[model]`: what RL starts from."""

    base: str = ""
    """A built-in name, a local folder, or a hub id."""
    source: str = ""
    """A model id of the registry, such as `fft:crafter-tiny:job_...`."""
    trainer_mode: Literal["lora"] = "lora"
    label: str = "rl"
    """For people: `status runs get` shows it."""

    @model_validator(mode="after")
    def _one(self) -> RLModel:
        if bool(self.base) == bool(self.source):
            raise ValueError("give exactly one of model.base and model.source")
        return self

    @property
    def start(self) -> str:
        """The model that RL starts from."""
        return self.base or self.source


class RLRollout(Section):
    """`[rollout]`: how episodes are played."""

    env_name: str = "grpo-crafter"
    max_turns: int = Field(10, ge=1)
    max_concurrent_rollouts: int = Field(128, ge=1)
    calls_together: int = Field(1, ge=1, le=256)
    """Engine calls that may share one remote call: less overhead for small models; short replies wait for long ones."""
    seed_range: tuple[int, int] = (0, 50_000)
    """Training seeds are drawn from [first, last)."""
    env_config: Mapping[str, Any] = {}
    policy_config: Policy = Policy()
    rollout_timeout_s: float = Field(300, gt=0)
    turn_timeout_s: float = Field(180, gt=0)
    """Longest that one turn may take, with all attempts at a reply."""

    @model_validator(mode="after")
    def _seeds(self) -> RLRollout:
        first, last = self.seed_range
        if not 0 <= first < last:
            raise ValueError("rollout.seed_range must be [first, last) with 0 <= first < last")
        return self


class RLTraining(Section):
    """`[training]`: how much, how fast, on which signal."""

    iterations: int = Field(10, ge=1)
    batch_size: int = Field(8, ge=1)
    """Groups (environment seeds) per step."""
    group_size: int = Field(16, ge=2)
    """Rollouts per group."""
    learning_rate: float = Field(2e-3, gt=0)
    minibatches: int = Field(8, ge=1)
    """Optimizer steps per RL step."""
    epochs: int = Field(1, ge=1)
    micro_batch_size: int = Field(256, ge=1)
    """Most turns that the learner computes at once; the gradients of a batch are accumulated, and are exact."""
    activation_checkpointing: bool = False
    """Computes activations again in the backward pass in place of keeping them: less memory, a third more time."""
    clip_low: float = Field(0.2, gt=0, lt=1)
    clip_high: float = Field(0.28, gt=0)
    kl_coef: float = Field(0.02, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    advantage_scale: Literal["std", "none"] = "std"
    invalid_turn_penalty: float = Field(0.0, ge=0)
    """Subtracted from the advantage's reward for each unusable reply; never from the reported reward."""
    max_staleness: int = Field(0, ge=0)
    """Versions by which sampled weights may lag; 0 is strictly on-policy."""
    step_rewards_enabled: bool = False
    """Whether turns are paid one by one; the keys below, and their meaning, are in docs/rewards.md."""
    step_rewards_mode: Literal["off", "decision_stepwise", "env_sparse"] = "decision_stepwise"
    """What pays a turn: nothing, the strategy, or the world's own reward."""
    step_rewards_strategy: str = "consistent"
    """`consistent`, `events`, `per_achievement`, `shaped`, or one of your own."""
    step_rewards_indicator_lambda: float = 1.0
    """Scale of the step rewards; 0 is 1 for `consistent` and `per_achievement`."""
    step_rewards_beta: float = Field(0.0, ge=-1e6, le=1e6)
    """Added to the learner's reward of a turn that unlocks something new, once per turn from there to the end."""
    step_rewards_weights: Mapping[str, float] = {}
    """Points by achievement; 1 for what is not listed."""
    step_rewards_k_limits: Mapping[str, int] = {}
    """How often an achievement pays in an episode: 1 if it is not listed, 0 without end."""
    step_rewards_gamma: float = Field(0.5, ge=0, le=1)
    """Discount of later turns' rewards in a turn's return."""
    event_rewards_kind: Literal["unique", "absolute"] = "unique"
    """Whether `events` pays an achievement once per episode or at every unlock."""
    step_timeout_s: float = Field(600, gt=0)
    """Longest that one update may take."""
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, values: Any) -> Any:
        """`[training.rewards]` is another place for the reward keys."""
        nested = values.get("rewards") if isinstance(values, Mapping) else None
        if not isinstance(nested, Mapping):
            return values
        if twice := sorted(nested.keys() & values.keys()):
            raise ValueError(f"{twice[0]} is both in [training] and in [training.rewards]")
        return {**{key: value for key, value in values.items() if key != "rewards"}, **nested}


class RLConfig(WithEngine):
    """An RL TOML."""

    algorithm: RLAlgorithm = RLAlgorithm()
    model: RLModel
    lora: Lora = Lora()
    rollout: RLRollout = RLRollout()
    training: RLTraining = RLTraining()
    judge: Judge = Judge()
    rubric: RubricSection = RubricSection()

    @property
    def reward_blend(self) -> RewardBlend:
        """What the judge's scores are worth."""
        return reward_blend(self.judge, self.rubric)

    @model_validator(mode="after")
    def _consistent(self) -> RLConfig:
        reward_blend(self.judge, self.rubric)
        if self.lora.r > self.vllm.max_lora_rank:
            raise ValueError(f"lora.r = {self.lora.r} is above vllm.max_lora_rank = {self.vllm.max_lora_rank}")
        policy = self.rollout.policy_config
        if policy.top_p != 1 or policy.top_k != 0 or policy.temperature == 0:
            raise ValueError("RL needs the full distribution: policy_config.top_p = 1, top_k = 0, temperature > 0")
        return self


class DeployConfig(WithEngine):
    """What `deploy` starts: the task app, an engine unless `model` is empty, and the gateway."""

    app_id: str = "grpo-crafter"
    model: str = "crafter-tiny"
    gateway: bool = True
    """Whether OpenAI's API and the jobs' API are served too; docs/gateway.md."""


def parse_seeds(text: str) -> list[int]:
    """ "0-2,7" as [0, 1, 2, 7]; ValueError for anything else."""
    seeds: list[int] = []
    for part in text.replace(" ", "").split(","):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ValueError(f"{part!r} is not a seed or a range such as 0-9")
        stop = int(last) if dash else int(first)
        if stop < int(first) or stop - int(first) >= 1_000_000:
            raise ValueError(f"{part!r} is not an ascending range of fewer than 1,000,000 seeds")
        seeds.extend(range(int(first), stop + 1))
    return seeds
