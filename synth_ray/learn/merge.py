"""Merge: a base model and its adapter as one model folder, so that anything can start from the pair.

Invariant: computed in float32 as ``W + alpha / r * B A`` (LoRA, arXiv 2106.09685, section 4.2) and kept in the base's
own precision, so that a float32 base gives the pair's log-probabilities up to rounding.
"""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from synth_ray.core.errors import CorruptError
from synth_ray.learn.adapter_files import adapter_weights_file
from synth_ray.learn.model_files import weight_files
from synth_ray.learn.sharding import gathered_state


def merge_adapter(model_dir: Path, adapter_dir: Path, out_dir: Path) -> None:
    """Writes model and tokenizer to ``out_dir``.

    Raises NotFoundError for a missing model or adapter, CorruptError for pickled ones and for one that doesn't fit.
    """
    weight_files(model_dir)
    adapter_weights_file(adapter_dir)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype="auto", local_files_only=True, use_safetensors=True)
    kept = model.dtype
    try:
        merged = PeftModel.from_pretrained(model.float(), str(adapter_dir)).merge_and_unload(safe_merge=True)
    except (RuntimeError, ValueError) as error:
        raise CorruptError(f"the adapter {adapter_dir} does not fit {model_dir}: {error}") from error
    save_model(merged, out_dir, kept)
    AutoTokenizer.from_pretrained(model_dir, local_files_only=True).save_pretrained(out_dir)


def save_model(model: torch.nn.Module, out_dir: Path, dtype: torch.dtype, keep: bool = True) -> None:
    """Writes a model's weights as ``dtype``. With shards every worker must call it, and one of them with ``keep``."""
    state = gathered_state(model, dtype, keep)
    if keep:
        model.config.dtype = dtype
        model.save_pretrained(out_dir, state_dict=state)
