"""Reference: what Hugging Face and PEFT alone say of a reply, to hold an inference engine against.

Deliberately plain: one sequence at a time, fp32, no padding, no cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from synth_ray.learn.adapter_files import adapter_weights_file
from synth_ray.learn.logprobs import token_logprobs
from synth_ray.learn.model_files import weight_files


@torch.no_grad()
def reference_logprobs(
    model_dir: Path,
    adapter_dir: Path | None,
    prompts_and_replies: Sequence[tuple[Sequence[int], Sequence[int]]],
    temperature: float,
) -> list[list[float]]:
    """Natural log-probabilities of each reply token after its prompt, under softmax(logits / temperature).

    Raises NotFoundError for a missing model or adapter, CorruptError for pickled ones.
    """
    model = _load(model_dir, adapter_dir)
    return [
        token_logprobs(model, ids, torch.ones_like(ids), temperature, len(prompt) - 1)[0].tolist()
        for prompt, reply in prompts_and_replies
        for ids in [torch.tensor([[*prompt, *reply]])]
    ]


def _load(model_dir: Path, adapter_dir: Path | None) -> torch.nn.Module:
    weight_files(model_dir)
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=torch.float32, local_files_only=True, use_safetensors=True
    )
    if adapter_dir is not None:
        adapter_weights_file(adapter_dir)
        model = PeftModel.from_pretrained(model, str(adapter_dir))
    return model.eval()
