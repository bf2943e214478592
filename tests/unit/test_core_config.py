"""Configuration: merging, sources, suggestions; seeds; and that the shipped TOMLs are valid."""

from pathlib import Path

import pytest

from synth_ray.core.config import Section, load_config, parse_set, validate
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


def test_seed_ranges() -> None:
    assert parse_seeds("0-2, 7") == [0, 1, 2, 7]
    for wrong in ("", "a", "3-1", "1-", "-1", "0-99999999"):
        with pytest.raises(ValueError, match=r"seed|range"):
            parse_seeds(wrong)
