"""Configuration: merging, sources, suggestions; seeds; and that the shipped TOMLs are valid."""

import copy
import datetime
import json
import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from synth_ray.core import config as config_module
from synth_ray.core.config import Section, load_config, parse_set, read_file, set_text, validate
from synth_ray.core.errors import ConfigError, NotFoundError
from synth_ray.core.judge_sections import CalibrateConfig
from synth_ray.core.sections import DeployConfig, EvalConfig, RLConfig, parse_seeds
from synth_ray.core.sft_sections import SFTConfig
from synth_ray.records.filter_run import FilterFile
from synth_ray.records.run_record import write_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
MODELS: dict[str, type[Section]] = {
    "rl": RLConfig,
    "sft": SFTConfig,
    "eval": EvalConfig,
    "collect": EvalConfig,
    "filter": FilterFile,
    "deploy": DeployConfig,
    "judge": CalibrateConfig,
}


WHOLE = [path for path in CONFIGS.rglob("*.toml") if path.parent.name != "rewards"]  # those go on top of others


@pytest.mark.parametrize("path", sorted(WHOLE), ids=lambda path: path.name)
def test_shipped_configs_are_valid_and_load_again_as_they_are_saved(path: Path, tmp_path: Path) -> None:
    model = MODELS[path.stem.removeprefix("train_").partition("_")[0]]
    config = load_config(model, [path])
    saved = tmp_path / "config.resolved.json"
    write_config(saved, config.as_dict()["config"], config.sources)
    assert load_config(model, [saved]).config == config.config


ANYTHING = (
    *(3, 0, math.inf, "x", datetime.date(2026, 1, 1)),
    *([], ["x", 3], [{"x": math.nan}], {}, {"x": 3}, {"x": math.nan}, {"enabled": []}),
)
"""What may stand in the place of any key."""
OLDER_KEYS = {
    RLConfig: (
        *("topology", "compute.gpu_count", "compute.topology.tensor_parallel", "compute.topology.gpus_for_ref"),
        *("training.rewards", "training.rewards.step_rewards_beta", "training.lora", "training.lora.r"),
        *("training.num_epochs", "training.iterations_per_epoch", "training.max_turns", "rollout.episodes_per_batch"),
        *("rollout.env_config.step_rewards", "rollout.policy_config.step_rewards", "policy", "reference", "judge.type"),
    ),
    EvalConfig: (
        *("eval.rollout", "eval.policy", "eval.judge", "eval.num_episodes", "eval.max_llm_calls", "eval.inference_url"),
        *("eval.policy_config.provider", "eval.policy_config.use_vision", "eval.env_config.env_params"),
    ),
    SFTConfig: (
        *("training", "training.mode", "training.use_qlora", "training.lora", "training.lora.r", "job.data_path"),
        *("training.validation", "training.validation.enabled", "compute.gpu_count", "hyperparameters.lora_rank"),
        *("hyperparameters.gradient_accumulation_steps", "hyperparameters.train_kind", "hyperparameters.parallelism"),
        *(f"hyperparameters.parallelism.{key}" for key in ("fsdp", "use_deepspeed", "deepspeed_stage")),
    ),
}
"""Keys of the other spelling that rules take apart."""
LEGACY = Path(__file__).parent / "legacy_toml"


def keys_in(table: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Every dotted path of a file, its tables included."""
    for name, value in table.items():
        yield f"{prefix}{name}"
        yield from keys_in(value, f"{prefix}{name}.") if isinstance(value, dict) else ()


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted path of a configuration, its tables included."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        if inner := config_module._model_in(field.annotation):
            yield from keys_of(inner, f"{prefix}{name}.")


def replaced(table: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of ``table`` with ``value`` at a dotted path."""
    copied = copy.deepcopy(table)
    *parents, last = path.split(".")
    holder = copied
    for name in parents:
        entry = holder.get(name)
        holder[name] = holder = entry if isinstance(entry, dict) else {}
    holder[last] = value
    return copied


@pytest.mark.parametrize("path", sorted([*WHOLE, *LEGACY.glob("*.toml")]), ids=lambda path: path.name)
def test_anything_in_place_of_a_key_loads_or_is_a_config_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS[path.stem.removeprefix("train_").partition("_")[0]]
    given = read_file(path)
    older = OLDER_KEYS.get(model, ()) if path.parent == LEGACY else ()
    known = keys_of(model) if path.stem in ("rl_weak", "sft_weak", "eval", "filter_weak", "deploy") else ()
    for key in dict.fromkeys([*keys_in(given), *known, *older]):
        for value in ANYTHING:
            table = replaced(given, key, value)
            monkeypatch.setattr(config_module, "read_file", lambda _, table=table: table)
            with suppress(ConfigError):
                values = load_config(model, [path]).as_dict()["config"]
                json.dumps(values, allow_nan=False)


@pytest.mark.parametrize(
    ("model", "sets", "said"),
    [
        (RLConfig, ["training.rewards=3"], "training.rewards must be a table"),
        (RLConfig, ["rollout.env_config.step_rewards=3"], "rollout.env_config.step_rewards must be a table"),
        (RLConfig, ["compute={gpu_count=2, topology=3}"], "compute.topology must be a table"),
        (RLConfig, ["training.learning_rate=inf"], "training.learning_rate: "),
        (RLConfig, ["training.step_rewards_weights={collect_wood=nan}"], "step_rewards_weights.collect_wood: "),
        (RLConfig, ["rollout.env_config.sizes=[1, {x=inf}]"], "rollout.env_config.sizes.1.x: "),
        (EvalConfig, ["eval.rollout=3"], "eval.rollout must be a table"),
        (EvalConfig, ["eval.rollout_timeout_s=inf"], "eval.rollout_timeout_s: "),
        (EvalConfig, ["eval.policy_config.teacher.noop_rate=-inf"], "eval.policy_config.teacher.noop_rate: "),
        (SFTConfig, ["algorithm=3"], "algorithm must be a table"),
        (SFTConfig, ["training.mode=[]"], "training.mode = [] is unknown"),
        (SFTConfig, ["training.validation=3"], "training.validation must be a table"),
        (SFTConfig, ["compute=3", "hyperparameters.parallelism.fsdp=true"], "compute must be a table"),
        (SFTConfig, ["lora=3", "training.lora.r=3"], "lora must be a table"),
        (SFTConfig, ["hyperparameters.gradient_accumulation_steps=[]"], "gradient_accumulation_steps = [] is no whole"),
    ],
)
def test_a_wrong_shape_or_number_names_its_key(model: type[Section], sets: list[str], said: str) -> None:
    names = {RLConfig: "rl_weak", EvalConfig: "eval", SFTConfig: "sft_weak"}
    with pytest.raises(ConfigError) as caught:
        load_config(model, [CONFIGS / "quickstart" / f"{names[model]}.toml"], sets)
    assert said in caught.value.message


def test_later_files_and_sets_win_and_sources_say_so(tmp_path: Path) -> None:
    first, second = tmp_path / "a.toml", tmp_path / "b.toml"
    first.write_text('[model]\nbase = "x"\n[training]\nseed = 1\niterations = 7\n')
    second.write_text("[training]\nseed = 2\n")
    resolved = load_config(RLConfig, [first, second], ["training.learning_rate=0.5"])
    assert resolved.config.training.seed == 2
    assert resolved.config.training.iterations == 7
    assert resolved.config.training.learning_rate == 0.5
    assert resolved.sources["training.seed"] == str(second)
    assert resolved.sources["training.learning_rate"] == "--set"


def test_unknown_keys_get_a_suggestion(tmp_path: Path) -> None:
    path = tmp_path / "rl.toml"
    path.write_text('[model]\nbase = "x"\n[training]\nlerning_rate = 0.1\n')
    with pytest.raises(ConfigError) as caught:
        load_config(RLConfig, [path])
    assert "training.lerning_rate" in caught.value.message
    assert caught.value.hint == "did you mean 'learning_rate'?"
    assert caught.value.exit_code == 2


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "rl_weak.toml").touch()
    with pytest.raises(NotFoundError, match="does not exist") as caught:
        load_config(RLConfig, [tmp_path / "rl_week.toml"])
    assert "rl_weak.toml" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[model]\n", "exactly one of"),
        ('[model]\nbase = "a"\nsource = "b"\n', "exactly one of"),
        ('[model]\nbase = "a"\n[lora]\nr = 64\n', "max_lora_rank"),
        ('[model]\nbase = "a"\n[rollout.policy_config]\ntop_p = 0.9\n', "full distribution"),
        ('[model]\nbase = "a"\n[training]\ngroup_size = 1\n', "training.group_size"),
        ("[model\n", "not valid TOML"),
    ],
)
def test_wrong_values_are_named(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "rl.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=match):
        load_config(RLConfig, [path])


def test_gpus_of_the_engine_are_all_used() -> None:
    given = {"compute": {"topology": {"gpus_for_vllm": 2}}}
    with pytest.raises(ConfigError, match=r"gpus_for_vllm = 2, .*tensor_parallel_size = 1"):
        validate(DeployConfig, given)
    assert validate(DeployConfig, {**given, "vllm": {"tensor_parallel_size": 2}}).vllm.tensor_parallel_size == 2


def test_sets_are_toml_typed() -> None:
    assert parse_set("a.b=3") == {"a": {"b": 3}}
    assert parse_set("a=[1, 2]") == {"a": [1, 2]}
    assert parse_set("a=fft:x:job_1") == {"a": "fft:x:job_1"}
    with pytest.raises(ConfigError):
        parse_set("novalue")


@pytest.mark.parametrize(
    "text", ["a\\b", 'say "x"', "\U0001f600/\u00e4", "\x7f\x00\x1f", "line\nbreak\ttab", "", "3", "true"]
)
def test_text_in_a_set_is_that_text(text: str) -> None:
    assert parse_set(set_text("a.b", text)) == {"a": {"b": text}}


def test_seed_ranges() -> None:
    assert parse_seeds("0-2, 7") == [0, 1, 2, 7]
    for wrong in ("", "a", "3-1", "1-", "-1", "0-99999999"):
        with pytest.raises(ValueError, match=r"seed|range"):
            parse_seeds(wrong)
