"""The TOML files of synth-ai 0.2 load unchanged: what they mean here, and what is reported as without effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from envs.crafter.task import CrafterTask
from envs.registry import names
from synth_ray.core.config import Resolved, Section, load_config, read_file
from synth_ray.core.errors import ConfigError
from synth_ray.core.sections import Eval, EvalConfig, RLConfig, RLTraining
from synth_ray.core.spelling_rules import OLDER_TASKS
from synth_ray.records.filter_run import FilterFile

FOLDER = Path(__file__).parent / "legacy_toml"
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
OURS = [
    path
    for path in sorted(CONFIGS.rglob("*.toml"))
    if read_file(path).keys() & {"eval", "rollout"} and path.parent.name != "rewards"
]
SHOWN = {"system_prompt": True, "renderer": "seed"}
MODELS: dict[str, type[Section]] = {"rl": RLConfig, "eval": EvalConfig, "filter": FilterFile}


def load(name: str, *sets: str) -> Resolved[Any]:
    return load_config(MODELS[name.partition("_")[0]], [FOLDER / f"{name}.toml"], sets)


def ignored(resolved: Resolved[Any]) -> set[str]:
    """The keys that the warnings call ignored."""
    return {warning.split()[0] for warning in resolved.warnings if " ignored: " in warning}


RL_IGNORED = {
    "services",
    "evaluation",
    "rollout.batches_per_step",
    "rollout.episodes_per_batch",
    "rollout.policy_config.top_p",
    "training.weight_sync",
    "training.weight_sync_interval",
    "training.gradient_accumulation_steps",
    "training.max_accumulated_minibatch",
    "training.async_semaphore_max",
}
MAY_BE_OURS = {"rollout.env_config.difficulty", "training.step_rewards_beta", "training.event_rewards_kind"}
PAYS_ACHIEVEMENTS = "step_rewards_weights" in RLTraining.model_fields
ASKS_HOSTED_MODELS = "inference_url" in type(Eval(model="m", seeds=[0]).policy_config).model_fields


def test_outcome_rewards() -> None:
    resolved = load("rl_outcome")
    config = resolved.config
    assert config.algorithm.variety == "gspo"
    assert (config.compute.topology.gpus_for_vllm, config.compute.topology.gpus_for_training) == (1, 1)
    assert (config.vllm.max_model_len, config.vllm.tensor_parallel_size) == (8192, 1)
    assert (config.model.base, config.model.label) == ("Qwen/Qwen3-4B", "crafter-rl-outcome")
    assert (config.lora.r, config.lora.alpha, config.lora.dropout) == (16, 32, 0.05)
    assert config.lora.target_modules == "all-linear"
    assert (config.rollout.env_name, config.rollout.max_turns) == ("crafter", 10)
    assert config.rollout.max_concurrent_rollouts == 8
    assert (config.rollout.policy_config.temperature, config.rollout.policy_config.max_tokens) == (0.6, 512)
    assert config.rollout.policy_config.top_p == 1
    assert (config.training.iterations, config.training.learning_rate) == (10, 5e-5)
    assert (config.training.batch_size, config.training.group_size) == (4, 4)
    assert config.training.step_rewards_enabled is False
    assert ignored(resolved) - MAY_BE_OURS == RL_IGNORED | {"training.max_turns"}
    assert "rollout.max_turns = 10 is used" in "".join(resolved.warnings)


def test_stepwise_simple() -> None:
    resolved = load("rl_stepwise_simple")
    training = resolved.config.training
    assert training.step_rewards_enabled is True
    assert (training.step_rewards_strategy, training.step_rewards_indicator_lambda) == ("consistent", 1.0)
    assert ignored(resolved) - MAY_BE_OURS == RL_IGNORED


@pytest.mark.skipif(not PAYS_ACHIEVEMENTS, reason="there is no such strategy yet")
def test_stepwise_shaped() -> None:
    resolved = load("rl_stepwise_shaped")
    training = resolved.config.training
    assert training.step_rewards_enabled is True
    assert (training.step_rewards_strategy, training.step_rewards_indicator_lambda) == ("per_achievement", 0.5)
    assert dict(training.step_rewards_weights)["collect_iron"] == 1.2
    assert dict(training.step_rewards_k_limits)["collect_wood"] == 4
    assert ignored(resolved) - MAY_BE_OURS == RL_IGNORED


def test_rl_from_sft_without_the_later_required_keys() -> None:
    resolved = load("rl_from_sft")
    config = resolved.config
    assert config.model.start == "fft:Qwen/Qwen3-4B:job_a53914f51dc146b5"
    assert config.model.trainer_mode == "lora"
    assert (config.compute.topology.gpus_for_vllm, config.vllm.tensor_parallel_size) == (4, 4)
    assert config.compute.topology.gpus_for_training == 3
    assert (config.training.batch_size, config.training.group_size, config.training.iterations) == (16, 8, 10)
    about_reference = {"compute.topology.gpus_for_ref", "reference.placement", "reference"}
    assert ignored(resolved) == {"services", "judge.type", "tags"} | about_reference


def test_rl_with_the_newer_sections() -> None:
    resolved = load("rl_new_sections")
    config = resolved.config
    assert (config.model.base, config.model.label) == ("Qwen/Qwen3-4B", "crafter-rl-hosted-judge")
    assert (config.lora.r, config.lora.dropout) == (16, 0.05)
    assert config.training.iterations == 10  # 2 epochs of 5
    assert config.training.step_rewards_enabled is True
    assert config.rollout.policy_config.temperature == 0.6
    expected = {"services", "compute.nodes", "evaluation", "policy", "training.weight_sync"}
    expected |= {"training.weight_sync_interval", "rollout.batches_per_step", "rollout.policy_config.top_p"}
    assert ignored(resolved) - MAY_BE_OURS == expected | {"rollout.rubric_rewards_only"}


def test_sft() -> None:
    config = load_sft("sft_qwen4b")
    assert (config.algorithm.type, config.algorithm.variety) == ("offline", "fft")
    assert (config.job.model, config.job.data) == ("Qwen/Qwen3-4B", "../ft_data/crafter_blog_high_reward.jsonl")
    assert config.hyperparameters.batch_size == 2 * 64 * 4
    assert (config.hyperparameters.n_epochs, config.hyperparameters.sequence_length) == (2, 2048)
    assert (config.hyperparameters.learning_rate, config.hyperparameters.weight_decay) == (8e-6, 0.01)
    assert config.compute.topology.gpus_for_training == 4


def test_sft_with_a_data_path() -> None:
    config = load_sft("sft_data_path")
    assert config.job.data == "ft_data/train.jsonl"
    assert config.hyperparameters.batch_size == 16
    assert config.compute.topology.gpus_for_training == 1


def load_sft(name: str) -> Any:
    """SFT sections translate their other spellings themselves."""
    sections = pytest.importorskip("synth_ray.core.sft_sections")
    return load_config(sections.SFTConfig, [FOLDER / f"{name}.toml"]).config


def test_eval_of_the_fine_tuned_model() -> None:
    resolved = load("eval_ft_qwen4b")
    config = resolved.config.eval
    assert (config.provider, config.model) == ("engine", "fft:Qwen/Qwen3-4B:job_a53914f51dc146b5")
    assert config.seeds == list(range(10))
    assert (config.max_turns, config.concurrency) == (10, 4)
    policy = config.policy_config
    assert (policy.temperature, policy.top_p, policy.max_tokens) == (0.2, 0.8, 512)
    assert config.env_config == SHOWN
    assert "eval.task_app_url" in ignored(resolved)


@pytest.mark.skipif(not ASKS_HOSTED_MODELS, reason="there is no such provider yet")
@pytest.mark.parametrize(
    ("name", "provider", "model", "seeds"),
    [
        ("eval_groq_qwen32b", "groq", "qwen/qwen3-32b", 20),
        ("eval_openai_gpt_oss_120b", "groq", "openai/gpt-oss-120b", 10),
    ],
)
def test_evals_of_hosted_models(name: str, provider: str, model: str, seeds: int) -> None:
    config = load(name).config.eval
    assert (config.provider, config.model) == (provider, model)
    assert config.seeds == list(range(seeds))
    assert config.policy_config.temperature == 0.6


def test_eval_as_one_table() -> None:
    resolved = load("eval_one_table")
    config = resolved.config.eval
    assert config.app_id == "crafter"
    assert config.seeds == list(range(10))
    assert config.policy_config.max_tokens == 512
    assert config.policy_config.temperature == 0.5
    assert config.env_config == {"step_rewards": {"enabled": True, "strategy": "consistent"}, **SHOWN}
    assert config.policy_config.thinking_mode == "no_think"
    assert {"eval.task_app_url", "eval.difficulty"} <= ignored(resolved)


def test_filter() -> None:
    config = load("filter_high_reward_dataset").config.filter
    assert config.db == Path("traces/v3/crafter_blog.db")
    assert config.models == ("qwen/qwen3-32b", "openai/gpt-oss-120b")
    assert (config.min_official_score, config.limit, config.shuffle_seed) == (0.1, 200, 42)
    assert config.min_judge_scores == {"quality": 0.5}
    assert config.min_created_at is not None


def test_later_layers_win_in_either_spelling() -> None:
    config = load("rl_outcome", "training.iterations=3", "topology.gpus_for_training=2").config
    assert config.training.iterations == 3
    assert config.compute.topology.gpus_for_training == 2
    assert load("rl_outcome", "training.iterations_per_epoch=7").config.training.iterations == 7


def test_sources_carry_our_names() -> None:
    sources = load("rl_outcome").sources
    assert sources["training.iterations"].endswith("rl_outcome.toml")
    assert "training.iterations_per_epoch" not in sources


@pytest.mark.parametrize(
    ("name", "item", "words"),
    [
        ("rl_outcome", "training.lerning_rate=1", "training.lerning_rate"),
        ("rl_outcome", "topology.gpus_for_vlm=1", "compute.topology.gpus_for_vlm"),
        ("rl_outcome", "servicez.task_url=x", "servicez"),
        ("rl_outcome", "training.num_epochs=2", "iterations_per_epoch"),
        ("rl_outcome", "training.step_rewards_mode=env_spars", "step_rewards_mode"),
        ("eval_ft_qwen4b", "eval.max_trns=2", "max_trns"),
        ("filter_high_reward_dataset", "filter.min_offical_score=2", "min_offical_score"),
    ],
)
def test_unknown_keys_are_errors_beside_known_spellings(name: str, item: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(name, item)
    assert words in caught.value.message


def test_a_resolved_configuration_is_accepted_as_a_file(tmp_path: Path) -> None:
    import json

    resolved = load("rl_outcome")
    path = tmp_path / "config.resolved.json"
    path.write_text(json.dumps(resolved.as_dict()))
    again = load_config(RLConfig, [path], ["training.seed=4"])
    assert again.config.training.seed == 4
    assert again.config.model == resolved.config.model
    assert again.warnings == ()
    path.write_text("{}")
    with pytest.raises(ConfigError, match="not a resolved configuration"):
        load_config(RLConfig, [path])


def world(resolved: Resolved[Any]) -> dict[str, Any]:
    config = resolved.config
    return dict(config.rollout.env_config if isinstance(config, RLConfig) else config.eval.env_config)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("[er][vl]*_*.toml")), ids=lambda path: path.stem)
def test_a_model_sees_what_the_older_task_showed(path: Path) -> None:
    resolved = load(path.stem)
    settings = world(resolved)
    settings.pop("step_rewards", None)
    assert settings == SHOWN
    section = "rollout" if isinstance(resolved.config, RLConfig) else "eval"
    told = "".join(resolved.warnings)
    assert f"{section}.env_config.system_prompt = true is assumed" in told
    assert f'{section}.env_config.renderer = "seed" is assumed' in told
    assert resolved.sources[f"{section}.env_config.renderer"] == "synth-ai 0.2"
    system, observation = CrafterTask().open(0, settings, 10).messages()
    assert (system.role, "Reply with" in system.content) == ("system", True)
    assert "=== CRAFTER GAME STATE ===" in observation.content


def test_what_is_said_stays() -> None:
    resolved = load("rl_outcome", "rollout.env_config.renderer=compact")
    assert world(resolved) == {**SHOWN, "renderer": "compact"}
    assert "renderer" not in "".join(resolved.warnings)
    assert world(load("eval_ft_qwen4b", "eval.env_config.system_prompt=false"))["system_prompt"] is False
    assert world(load("rl_outcome", "rollout.env_name=my_env:GuessTask")) == {}


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_files_in_our_spelling_get_no_such_settings(path: Path) -> None:
    given = read_file(path)
    section = "rollout" if "rollout" in given else "eval"
    resolved = load_config(RLConfig if section == "rollout" else EvalConfig, [path])
    assert world(resolved) == given[section].get("env_config", {})
    assert resolved.warnings == ()


def test_a_key_that_both_spellings_have_tells_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rl.toml"
    block = "[rollout.env_config.step_rewards]\nenabled = true\n[training.rewards]\nstep_rewards_beta = 0.1\n"
    path.write_text(f'[model]\nbase = "m"\n{block}')
    assert world(load_config(RLConfig, [path])) == {}
    assert world(load_config(RLConfig, [path, FOLDER / "rl_outcome.toml"], ["model.base=m"])) == {}
    assert world(load_config(RLConfig, [path], ["topology.gpus_for_vllm=1"])) == {}


def test_every_older_name_is_a_name_of_the_task() -> None:
    assert set(OLDER_TASKS) <= names("grpo-crafter")


def test_a_judge_that_the_rubric_switches_on() -> None:
    resolved = load("rl_hosted_judge")
    config = resolved.config
    assert config.judge.enabled
    assert (config.reward_blend.env, config.reward_blend.event, config.reward_blend.outcome) == (0.2, 0.4, 0.4)
    assert config.judge.options.rubric_overrides["event"]["criteria"][0]["id"] == "progress.unique_achievements"
    assert config.rollout.policy_config.thinking_mode == "no_think"
    assert "judge.enabled = true is assumed" in "".join(resolved.warnings)
    assert not load("rl_hosted_judge", "judge.enabled=false", "rubric.enabled=false").config.judge.enabled


def test_a_judge_that_nothing_switches_on_is_asked_about(tmp_path: Path) -> None:
    path = tmp_path / "rl.toml"
    path.write_text((FOLDER / "rl_hosted_judge.toml").read_text().replace("[rubric]\nenabled = true", "[rubric]"))
    with pytest.raises(ConfigError, match=r"write enabled = true under \[judge\]"):
        load_config(RLConfig, [path])


def test_thinking_is_a_field_of_a_hosted_models_request() -> None:
    from jobs.eval import _endpoint

    config = load("eval_groq_qwen32b", "eval.policy_config.thinking_mode=no_think").config.eval
    endpoint = _endpoint(config)
    assert endpoint and endpoint.body == {"thinking_mode": "no_think"}
