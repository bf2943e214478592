"""LoRA: a small trainable adapter on a frozen base model, and its exact bytes.

Invariant: the same adapter state gives the same bytes, and those bytes are the file that PEFT's ``save_pretrained``
would write and vLLM loads. Pickles are never read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    prepare_model_for_kbit_training,
    set_peft_model_state_dict,
)
from safetensors import SafetensorError
from safetensors.torch import load, save
from transformers import PreTrainedModel

from synth_ray.core.errors import ConfigError, CorruptError
from synth_ray.learn.adapter_files import write_adapter
from synth_ray.learn.seeding import seeded
from synth_ray.learn.sharding import whole

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

_ADAPTER = "default"


@dataclass(frozen=True, slots=True)
class LoraSpec:
    """Shape of an adapter (LoRA, arXiv 2106.09685, section 4.1): rank, scale ``alpha / r``, dropout, adapted layers."""

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ALL_LINEAR


def attach(model: PreTrainedModel, spec: LoraSpec, seed: int) -> PeftModel:
    """Freezes ``model`` and gives it a fresh adapter that depends on ``seed`` only and changes no output yet.

    Raises ConfigError if the model has none of the layers, or the rank is not positive.
    """
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=spec.r,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=sorted(spec.target_modules),
        bias="none",
        use_dora=False,
    )
    try:
        with seeded(seed):
            return get_peft_model(model, config)
    except ValueError as error:
        raise ConfigError(f"cannot attach LoRA: {error}") from error


def prepare_four_bit(model: PreTrainedModel) -> PreTrainedModel:
    """Makes a base in 4 bits fit to carry an adapter: all the rest becomes float32 (QLoRA, arXiv 2305.14314)."""
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def adapter_bytes(model: PeftModel) -> tuple[bytes, dict[str, Any]]:
    """The adapter as a safetensors file, and its ``adapter_config.json``: what PEFT writes and vLLM loads."""
    return save(_state(model), metadata={"format": "pt"}), _disk_config(model)


def load_adapter_bytes(model: PeftModel, data: bytes) -> None:
    """Puts adapter weights into an attached model.

    Raises CorruptError if ``data`` is no safetensors file (a pickle, say) or does not fit the model's adapter.
    """
    try:
        state = load(data)
    except SafetensorError as error:
        raise CorruptError(f"the adapter is not a safetensors file: {error}") from error
    if _shapes(state) != _shapes(_state(model)):
        raise CorruptError("the adapter does not fit the model", hint="check the base model, r and target_modules")
    set_peft_model_state_dict(model, state, adapter_name=_ADAPTER)


def save_adapter(model: PeftModel, directory: Path) -> None:
    """Writes the model's adapter as a folder that PEFT and vLLM load."""
    write_adapter(directory, *adapter_bytes(model))


def _state(model: PeftModel) -> dict[str, torch.Tensor]:
    # "auto" would ask the Hugging Face Hub for the base model's config; embeddings are never part of our adapters.
    state = get_peft_model_state_dict(model, adapter_name=_ADAPTER, save_embedding_layers=False)
    return {name: whole(tensor.detach()).cpu().contiguous() for name, tensor in state.items()}


def _shapes(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _disk_config(model: PeftModel) -> dict[str, Any]:
    config = model.peft_config[_ADAPTER].to_dict()
    config["inference_mode"] = True
    # PEFT writes sets in hash order, which differs between processes.
    plain = {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}
    return dict(json.loads(json.dumps(plain)))
