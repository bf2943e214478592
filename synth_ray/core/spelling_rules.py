"""Which other spellings experiment files may have: one list of rules per configuration class, applied in order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from synth_ray.core.errors import ConfigError
from synth_ray.core.origins import VENDORS
from synth_ray.core.spellings import Rule, Translation, dropped, ignored, moved
from synth_ray.core.urls import parse_url

STRATEGY_ALIASES = {
    "simple": "consistent",
    "consistent_stepwise": "consistent",
    "decision_consistent": "consistent",
    "per-achievement": "per_achievement",
    "perachievement": "per_achievement",
    "achievement_weighted": "per_achievement",
    "complex": "per_achievement",
}
_VENDOR_HOSTS = {parse_url(vendor.base_url).host: name for name, vendor in VENDORS.items()}
_SERVICES = "task app and judge are found through the cluster that runs the job"
_SAMPLING = ("temperature", "top_p", "top_k", "max_tokens")
# The older system had one task, whatever its name: it explained the game and showed a text layout of its own.
OLDER_TASKS = ("grpo-crafter", "grpo-crafter-task-app", "crafter", "crafter-task", "CrafterClassic")
_OLDER_VIEW: Mapping[str, Any] = {"system_prompt": True, "renderer": "seed"}
_TASK_KEYS = {"RLConfig": ("rollout.env_name", "rollout.env_config"), "EvalConfig": ("eval.app_id", "eval.env_config")}


def _hardware(file: Translation) -> None:
    """GPUs are what the topology says; a bare count goes to the trainer."""
    count = file.get("compute.gpu_count")
    if count is None or file.knows("compute.gpu_count"):
        return
    file.pop("compute.gpu_count")
    topology = file.section("compute.topology")
    asked = sum(_number(topology.get(key)) for key in ("gpus_for_vllm", "gpus_for_training", "gpus_for_ref"))
    if not asked:
        file.put("compute.topology.gpus_for_training", count)
    elif asked != count:
        file.warn(f"compute.gpu_count = {count} is ignored: compute.topology asks for {asked}")


def _number(value: Any) -> int:
    """``value``, or zero: what is no whole number here is the validation's business."""
    return value if isinstance(value, int) else 0


def _tensor_parallel(file: Translation) -> None:
    value = file.pop("compute.topology.tensor_parallel")
    if value is not None:
        file.put("vllm.tensor_parallel_size", value)


def _reference(file: Translation) -> None:
    """A reference model of its own is not needed: it is the policy without its adapter."""
    for path in ("compute.topology.gpus_for_ref", "reference.placement", "compute.topology.reference_placement"):
        if not file.knows(path) and file.pop(path) not in (None, 0, "none"):
            file.warn(f"{path} is ignored: the reference is the policy without its adapter, on the trainer's GPU")


_COMPUTE: tuple[Rule, ...] = (
    moved("topology", "compute.topology"),
    dropped("compute.topology.type"),
    _tensor_parallel,
    _hardware,
    _reference,
    ignored("the cluster decides on which nodes", "compute.nodes", "compute.variant", "compute.gpus_per_node"),
)


def _all_linear(file: Translation) -> None:
    if file.get("lora.target_modules") == ["all-linear"]:
        file.put("lora.target_modules", "all-linear", replace=True)


def _iterations(file: Translation) -> None:
    epochs, each = file.get("training.num_epochs"), file.get("training.iterations_per_epoch")
    if file.knows("training.num_epochs") or (epochs, each) == (None, None):
        return
    if not all(value is None or (isinstance(value, int) and value > 0) for value in (epochs, each)):
        raise ConfigError("training.num_epochs and training.iterations_per_epoch must be positive whole numbers")
    if each is None and epochs != 1:
        raise ConfigError(
            "training.num_epochs needs training.iterations_per_epoch", "or give training.iterations, their product"
        )
    file.pop("training.num_epochs")
    file.pop("training.iterations_per_epoch")
    if each is not None:
        file.put("training.iterations", (epochs or 1) * each)


def _turns(file: Translation) -> None:
    if file.knows("training.max_turns"):
        return
    turns = file.pop("training.max_turns")
    if turns is None:
        return
    file.put("rollout.max_turns", turns)
    used = file.get("rollout.max_turns")
    if used != turns:
        file.warn(f"training.max_turns = {turns} is ignored: rollout.max_turns = {used} is used")


def _episodes_per_batch(file: Translation) -> None:
    if file.knows("rollout.episodes_per_batch"):
        return
    episodes = file.pop("rollout.episodes_per_batch")
    groups, size = file.get("training.batch_size"), file.get("training.group_size")
    if episodes is None or not (isinstance(groups, int) and isinstance(size, int)):
        return
    if episodes != groups * size:
        file.warn(
            f"rollout.episodes_per_batch = {episodes} is ignored: training.batch_size x group_size = {groups * size}"
        )


def _step_rewards(file: Translation) -> None:
    """Everything about step rewards goes to [training], flat; the settings in env_config or policy_config win."""
    for name, value in file.pop_section("training.rewards", ours=True).items():
        file.put(f"training.{name}", value)
    for table in ("rollout.policy_config.step_rewards", "rollout.env_config.step_rewards"):
        given = file.pop_section(table, ours="env_config" in table)
        if "step_beta" in given:
            given["beta"] = given.pop("step_beta")
        for name, value in given.items():
            file.put(f"training.step_rewards_{name}", value, replace=True)
    strategy = file.get("training.step_rewards_strategy")
    if isinstance(strategy, str) and strategy in STRATEGY_ALIASES:
        file.changed = True
        file.put("training.step_rewards_strategy", STRATEGY_ALIASES[strategy], replace=True)


def _one_distribution(file: Translation) -> None:
    """The other trainer cut the distribution that it sampled from; importance ratios need all of it."""
    policy = file.get("rollout.policy_config")
    if not file.changed or not isinstance(policy, dict):
        return
    for key, whole in (("top_p", 1), ("top_k", 0)):
        value = policy.get(key)
        if value is not None and value != whole and not (key == "top_k" and value == -1):
            file.warn(f"rollout.policy_config.{key} = {value} is ignored: RL samples from the full distribution")
        if value is not None:
            policy[key] = whole


def _judge_enabled(file: Translation) -> None:
    """There, `[rubric]` switches the judge's scores on, and `[judge.options]` only says who judges."""
    if not file.older or file.get("judge.enabled") is not None:
        return
    if file.get("rubric.enabled") is True and file.get("judge.options"):
        file.put("judge.enabled", True)
        file.warn("judge.enabled = true is assumed: [judge.options] names a judge, and rubric.enabled is true")


RL: Sequence[Rule] = (
    dropped("type", "job_type"),
    *_COMPUTE,
    moved("policy.model_name", "model.base"),
    *(moved(f"policy.{key}", f"model.{key}") for key in ("source", "trainer_mode", "label")),
    *(moved(f"policy.{key}", f"rollout.policy_config.{key}") for key in _SAMPLING),
    moved("training.lora", "lora"),
    _all_linear,
    _iterations,
    _turns,
    _episodes_per_batch,
    _step_rewards,
    moved("training.max_completion_tokens", "rollout.policy_config.max_tokens"),
    _one_distribution,
    dropped("rollout.policy_name", "rollout.ops", "training.ops", "rollout.task_app_origin_rewards_only"),
    dropped("training.log_interval", "training.weight_sync_verify_checksums"),
    ignored(_SERVICES, "services"),
    ignored("every step is one batch", "rollout.batches_per_step"),
    ignored(
        "training.micro_batch_size bounds the memory",
        "training.gradient_accumulation_steps",
        "training.max_accumulated_minibatch",
    ),
    ignored("rollout.max_concurrent_rollouts says it", "training.async_semaphore_max"),
    ignored("every version is published and verified", "training.weight_sync", "training.weight_sync_interval"),
    ignored("worlds have no such settings", "rollout.env_config.difficulty", "rollout.env_config.env_params"),
    ignored("run `synth-ray eval` on the trained model", "evaluation"),
    ignored("[judge] and [rubric] say who judges and what it is worth", "judge.type", "rollout.rubric_rewards_only"),
    ignored("the reference is the policy without its adapter", "reference"),
    ignored("they belong to another program", "tags", "smoke"),
    _judge_enabled,
    ignored("the engine of this cluster has no such setting", "policy"),
    ignored(
        "the engine of this cluster has no such setting",
        *(
            f"rollout.policy_config.{key}"
            for key in (
                *("provider", "model", "inference_url", "use_vision", "image_only_mode"),
                *("thinking_budget", "tool_choice", "use_tools", "max_llm_calls", "repetition_penalty"),
                *("stop_sequences", "reasoning_effort", "parallel_tool_calls"),
            )
        ),
    ),
)


def _one_table(file: Translation) -> None:
    """The section may be the whole file: then everything that is no section of ours belongs to it."""
    if "eval" in file.table or not file.table.keys() & {"app_id", "model", "seeds", "num_episodes"}:
        return
    for name in [name for name in file.table if not file.knows(name)]:
        file.put(f"eval.{name}", file.pop(name))


def _nested_rollout(file: Translation) -> None:
    for name, value in file.pop_section("eval.rollout").items():
        file.put(f"eval.{name}", value)


def _seeds(file: Translation) -> None:
    seeds, episodes = file.get("eval.seeds"), file.pop("eval.num_episodes")
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        file.put("eval.seeds", [seeds], replace=True)
    elif isinstance(seeds, list) and any(isinstance(seed, str) for seed in seeds):
        file.put("eval.seeds", ",".join(map(str, seeds)), replace=True)
    elif seeds is None and isinstance(episodes, int):
        file.put("eval.seeds", list(range(episodes)))


def _eval_turns(file: Translation) -> None:
    """Turns are decisions; the first of these that is given counts."""
    for path in (
        "eval.policy_config.max_llm_calls",
        "eval.max_llm_calls",
        "eval.env_config.env_params.max_steps_per_episode",
        "eval.env_config.max_steps_per_episode",
    ):
        turns = None if file.knows(path) else file.pop(path)
        if turns is None:
            continue
        file.put("eval.max_turns", turns)
        if file.get("eval.max_turns") != turns:
            file.warn(f"{path} = {turns} is ignored: eval.max_turns = {file.get('eval.max_turns')} is used")


def _eval_provider(file: Translation) -> None:
    """Who answers is one key; of a hosted model the URL says it, whatever the provider is called."""
    if not file.knows("eval.policy_config.provider"):
        provider = file.pop("eval.policy_config.provider") or file.pop("eval.policy_config.vendor")
        if provider is not None:
            file.put("eval.provider", provider)
    if not file.knows("eval.policy_config.model"):
        model = file.pop("eval.policy_config.model")
        if model is not None:
            file.put("eval.model", model)
    provider, url = file.get("eval.provider"), file.get("eval.policy_config.inference_url")
    if provider == "synth":
        file.changed = file.older = True
        file.put("eval.provider", "engine", replace=True)
        if file.pop("eval.policy_config.inference_url", ours=True):
            file.warn("eval.policy_config.inference_url is ignored: the engine of this cluster answers")
    elif isinstance(url, str) and url and provider != "remote":  # ours says "" for none
        vendor = next((name for host, name in _VENDOR_HOSTS.items() if f"//{host}/" in f"{url}/"), "remote")
        file.put("eval.provider", vendor, replace=True)
        if vendor != "remote":
            file.pop("eval.policy_config.inference_url", ours=True)


def _eval_request(file: Translation) -> None:
    """What only a hosted model understands goes into its request; pictures are part of the world's text."""
    if file.get("eval.provider") in (None, "engine", "expert"):
        return
    if file.knows("eval.policy_config.body"):
        for key in ("thinking_budget", "reasoning_effort", "use_tools"):
            moved(f"eval.policy_config.{key}", f"eval.policy_config.body.{key}")(file)
    for key in ("use_vision", "image_only_mode"):
        if file.get(f"eval.policy_config.{key}") is True:
            moved(f"eval.policy_config.{key}", f"eval.env_config.{key}")(file)


def _no_vision(file: Translation) -> None:
    for key in ("use_vision", "image_only_mode"):
        if file.get(f"eval.policy_config.{key}") is False:
            dropped(f"eval.policy_config.{key}")(file)


EVAL: Sequence[Rule] = (
    dropped("type", "eval.type"),
    _one_table,
    _nested_rollout,
    moved("eval.policy", "eval.policy_config"),
    *(moved(f"eval.{key}", f"eval.policy_config.{key}") for key in _SAMPLING),
    *(
        moved(f"eval.{key}", f"eval.policy_config.{key}")
        for key in ("thinking_mode", "thinking_budget", "inference_url", "tool_choice", "reasoning_effort")
    ),
    moved("eval.env_name", "eval.app_id"),
    _eval_provider,
    _no_vision,
    _eval_request,
    _seeds,
    _eval_turns,
    dropped("eval.policy_name", "eval.ops"),
    dropped("eval.trace_format", "eval.return_trace", "eval.policy_config.use_tools"),
    moved("eval.policy_config.step_rewards", "eval.env_config.step_rewards"),
    ignored("the task app is deployed on the cluster that runs the job", "eval.task_app_url"),
    ignored("worlds have no such settings", "eval.difficulty", "eval.env_config.difficulty"),
    ignored("give the seeds themselves", "eval.metadata", "eval.metadata_sql"),
    ignored("give --env-file", "eval.env_file"),
    ignored(
        "the provider has no such setting",
        "eval.system_hint",
        *(
            f"eval.policy_config.{key}"
            for key in (
                *("inference_url", "use_vision", "image_only_mode", "thinking_budget"),
                *("tool_choice", "reasoning_effort", "system_hint", "parallel_tool_calls"),
            )
        ),
    ),
)


def _db_path(file: Translation) -> None:
    db = file.get("filter.db")
    if isinstance(db, str) and db.startswith(("sqlite+aiosqlite:///", "sqlite:///")):
        file.changed = True
        file.put("filter.db", db.split(":///", 1)[1], replace=True)


FILTER: Sequence[Rule] = (dropped("type"), _db_path)


def unsaid(kind: str, table: Mapping[str, Any]) -> Translation:
    """What a file of the older system takes for granted about its task, with one warning for each key.

    ``table`` is the whole configuration in our spelling, ``kind`` its class; the answer's table has the new keys only.
    """
    given, added = (Translation(dict(one), lambda path: True) for one in (table, {}))
    name, settings = _TASK_KEYS.get(kind, ("", ""))
    if not name or given.get(name) not in (None, *OLDER_TASKS):
        return added
    said = given.section(settings)
    for key, value in _OLDER_VIEW.items():
        if said.get(key) is None:
            added.put(f"{settings}.{key}", value)
            added.warn(
                f"{settings}.{key} = {json.dumps(value)} is assumed: the file is in the spelling of synth-ai 0.2"
            )
    return added


RULES: Mapping[str, Sequence[Rule]] = {"RLConfig": RL, "EvalConfig": EVAL, "FilterFile": FILTER}
