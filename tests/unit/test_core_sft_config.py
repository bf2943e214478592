"""SFT TOMLs: own keys, older spellings, contradictions, and what is ignored aloud."""

from __future__ import annotations

import logging
import tomllib
from typing import Any

import pytest

from synth_ray.core.config import validate
from synth_ray.core.errors import ConfigError
from synth_ray.core.sft_sections import SFTConfig

OLD = """
[algorithm]
type = "offline"
method = "supervised_finetune"
variety = "fft"
[job]
model = "Qwen/Qwen3-4B"
data_path = "x.jsonl"
poll_seconds = 1800
[compute]
gpu_type = "H100"
gpu_count = 4
nodes = 1
[data]
validation_path = "v.jsonl"
topology = { container_count = 4 }
[training]
mode = "full_finetune"
use_qlora = false
validation = { enabled = true, evaluation_strategy = "steps", eval_steps = 20, metric_for_best_model = "val.loss" }
[hyperparameters]
n_epochs = 2
world_size = 4
sequence_length = 2048
per_device_batch = 2
gradient_accumulation_steps = 8
learning_rate = 8e-6
warmup_ratio = 0.03
train_kind = "fft"
parallelism = { use_deepspeed = true, deepspeed_stage = 3, fsdp = false, bf16 = true, activation_checkpointing = true }
[tags]
owner = "me"
"""


def parsed(text: str) -> SFTConfig:
    return validate(SFTConfig, tomllib.loads(text))


def small(text: str = "") -> SFTConfig:
    return parsed(f'job.data = "x.jsonl"\n{text}')


def test_an_older_file_means_what_it_says(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        config = parsed(OLD)
    given = config.hyperparameters
    assert (config.job.data, config.data.validation_path) == ("x.jsonl", "v.jsonl")
    assert (given.batch_size, given.per_device_batch, given.warmup_ratio, given.eval_steps) == (64, 2, 0.03, 20)
    assert given.activation_checkpointing
    assert (config.compute.topology.gpus_for_training, config.compute.parallelism) == (4, "fsdp")
    said = {record.getMessage().split(" ")[0] for record in caplog.records}
    assert {"job.poll_seconds", "tags", "data.topology", "hyperparameters.world_size"} <= said
    assert validate(SFTConfig, config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("hyperparameters = { global_batch = 4, per_device_batch = 1 }", {"batch_size": 4, "per_device_batch": 1}),
        ("hyperparameters = { batch_size = 2, gradient_accumulation_steps = 3 }", {"batch_size": 6}),
        ("hyperparameters = { global_batch = 4, gradient_accumulation_steps = 3 }", {"batch_size": 4}),
        ("hyperparameters = { batch_size = 4 }", {"batch_size": 4, "per_device_batch": 64}),
        ("hyperparameters = { total_steps = 7 }", {"max_steps": 7}),
    ],
)
def test_batches_and_steps(text: str, values: dict[str, Any]) -> None:
    given = small(text).hyperparameters
    assert {key: getattr(given, key) for key in values} == values


@pytest.mark.parametrize(
    ("text", "variety"),
    [
        ("", "fft"),
        ('training.mode = "lora"', "lora"),
        ('hyperparameters.train_kind = "peft"', "lora"),
        ('algorithm.variety = "lora"\ntraining.use_qlora = true', "qlora"),
        ("training.use_qlora = true", "qlora"),
        ('algorithm.variety = "qlora"\ntraining.mode = "lora"', "qlora"),
        ('training.mode = "sft_offline"', "fft"),
    ],
)
def test_variety(text: str, variety: str) -> None:
    assert small(text).algorithm.variety == variety


def test_lora_settings_from_every_older_place() -> None:
    expected = small("lora = { r = 8, alpha = 16, dropout = 0.05, target_modules = ['q_proj'] }").lora
    assert small("training.lora = { r = 8, alpha = 16, dropout = 0.05, target_modules = ['q_proj'] }").lora == expected
    flat = "lora_rank = 8, lora_alpha = 16, lora_dropout = 0.05, lora_target_modules = ['q_proj']"
    assert small(f"hyperparameters = {{ {flat} }}").lora == expected


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("hyperparameters.lerning_rate = 1", "hyperparameters.lerning_rate"),
        ("training.mod = 'lora'", "'training.mod'; did you mean 'mode'"),
        ("training.validation.eval_step = 1", "eval_steps"),
        ("hyperparameters.parallelism.fsp = true", "fsdp"),
        ("training.mode = 'full'", "full_finetune"),
        ("data.validation_pth = 'x'", "data.validation_pth"),
        ("algorithm.variety = 'fft'\ntraining.mode = 'lora'", "contradict"),
        ("algorithm.variety = 'fft'\ntraining.use_qlora = true", "qlora"),
        ("job.data_path = 'other.jsonl'", "contradict"),
        ("lora.r = 8\ntraining.lora.r = 16", "contradict"),
        ("algorithm.variety = 'qlora'\ncompute.parallelism = 'fsdp'", "4-bit"),
        ("data = { validation_path = 'v', eval_fraction = 0.1 }", "not both"),
        ("algorithm.variety = 'dora'", "algorithm.variety"),
    ],
)
def test_wrong_files_are_refused(text: str, match: str) -> None:
    with pytest.raises(ConfigError) as caught:
        small(text)
    assert match in f"{caught.value.message} {caught.value.hint}"
