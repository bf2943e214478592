"""LoRA: bytes equal to PEFT's own, a round trip, and no pickles."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from synth_ray.core.errors import ConfigError, CorruptError, NotFoundError
from synth_ray.core.hashing import sha256_bytes
from synth_ray.learn.adapter_files import read_adapter
from synth_ray.learn.lora import LoraSpec, adapter_bytes, attach, load_adapter_bytes, save_adapter
from synth_ray.learn.tiny_model import build_tiny_model

SPEC = LoraSpec(r=4, alpha=8)
IDS = torch.tensor([[2, 7, 8, 9]])


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny")
    build_tiny_model([f"w{i}" for i in range(10)], (), directory, hidden=16, intermediate=24)
    return directory


def fresh(model_dir: Path, seed: int = 0, spec: LoraSpec = SPEC) -> Any:
    return attach(AutoModelForCausalLM.from_pretrained(model_dir), spec, seed)


def moved(model_dir: Path) -> Any:
    """A model whose adapter is not the fresh one, so that it changes the output."""
    model = fresh(model_dir)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def test_fresh_adapter_depends_on_the_seed_only_and_changes_nothing(model_dir: Path) -> None:
    torch.manual_seed(1)
    first, state = fresh(model_dir), torch.get_rng_state()
    torch.manual_seed(2)
    second = fresh(model_dir)
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())
    assert adapter_bytes(first) == adapter_bytes(second)
    assert adapter_bytes(first)[0] != adapter_bytes(fresh(model_dir, seed=1))[0]
    assert torch.equal(first(IDS).logits, AutoModelForCausalLM.from_pretrained(model_dir)(IDS).logits)


def test_only_the_adapter_is_trainable(model_dir: Path) -> None:
    names = [name for name, parameter in fresh(model_dir).named_parameters() if parameter.requires_grad]
    assert len(names) == 2 * 7 * 2
    assert all("lora_" in name for name in names)


def test_files_are_what_peft_writes(model_dir: Path, tmp_path: Path) -> None:
    model = moved(model_dir)
    model.save_pretrained(tmp_path / "peft")
    save_adapter(model, tmp_path / "ours")
    weights, config = read_adapter(tmp_path / "ours")
    peft_weights, peft_config = read_adapter(tmp_path / "peft")
    assert sha256_bytes(weights) == sha256_bytes(peft_weights)
    peft_config["target_modules"].sort()
    assert config == peft_config
    assert (config["bias"], config["use_dora"], config["inference_mode"]) == ("none", False, True)
    assert json.loads(json.dumps(config)) == config


def test_folder_loads_with_peft(model_dir: Path, tmp_path: Path) -> None:
    model = moved(model_dir)
    save_adapter(model, tmp_path)
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_dir), str(tmp_path))
    torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits)


def test_bytes_round_trip(model_dir: Path) -> None:
    model, other = moved(model_dir), fresh(model_dir, seed=3)
    data, _ = adapter_bytes(model)
    assert adapter_bytes(other)[0] != data
    load_adapter_bytes(other, data)
    assert adapter_bytes(other)[0] == data
    assert torch.equal(other(IDS).logits, model(IDS).logits)
    assert all("lora_" in name for name, p in other.named_parameters() if p.requires_grad)


def test_pickles_and_garbage_are_refused(model_dir: Path, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(1)}, buffer)
    data, _ = adapter_bytes(fresh(model_dir))
    for bad in (buffer.getvalue(), b"", b"\x80\x04.", data[:-1]):
        with pytest.raises(CorruptError, match="not a safetensors file"):
            load_adapter_bytes(fresh(model_dir), bad)
    (tmp_path / "adapter_model.bin").write_bytes(buffer.getvalue())
    with pytest.raises(CorruptError, match="pickled"):
        read_adapter(tmp_path)


def test_missing_or_broken_folders_are_refused(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no adapter_model\.safetensors"):
        read_adapter(tmp_path)
    save_adapter(fresh(model_dir), tmp_path)
    for text in ("{", "[]"):
        (tmp_path / "adapter_config.json").write_text(text)
        with pytest.raises(CorruptError, match="not"):
            read_adapter(tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(NotFoundError, match=r"no adapter_config\.json"):
        read_adapter(tmp_path)


def test_adapter_of_another_shape_is_refused(model_dir: Path) -> None:
    for spec in (LoraSpec(r=8, alpha=8), LoraSpec(r=4, alpha=8, target_modules=("q_proj",))):
        with pytest.raises(CorruptError, match="does not fit"):
            load_adapter_bytes(fresh(model_dir), adapter_bytes(fresh(model_dir, spec=spec))[0])


def test_unknown_layers_are_a_config_error(model_dir: Path) -> None:
    with pytest.raises(ConfigError, match="no_such_layer"):
        fresh(model_dir, spec=LoraSpec(target_modules=("no_such_layer",)))
    with pytest.raises(ConfigError, match="positive"):
        fresh(model_dir, spec=LoraSpec(r=0))
