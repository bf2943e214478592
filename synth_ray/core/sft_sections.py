"""The sections of an SFT TOML; the spellings of older files are translated in ``sft_aliases.py``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from synth_ray.core.config import Section
from synth_ray.core.sections import Compute, Lora, ThinkingSwitch
from synth_ray.core.sft_aliases import translated

Variety = Literal["fft", "lora", "qlora"]


class SFTAlgorithm(Section):
    """`[algorithm]` of fine-tuning."""

    type: Literal["offline"] = "offline"
    method: Literal["sft", "supervised_finetune"] = "sft"
    variety: Variety = "fft"
    """`fft`: all weights; `lora`: an adapter; `qlora`: an adapter on a base in 4 bits (GPU only)."""


class SFTJob(Section):
    """`[job]`: what is tuned on what."""

    model: str = "crafter-tiny"
    """A built-in name, a model id of the registry, a local folder or a hub id."""
    data: str
    """JSONL file; relative to the last config file, else to the working directory or the project."""


class SFTData(ThinkingSwitch):
    """`[data]`: what is learned of the data, and what is held out. `thinking_mode`: how the prompts ask."""

    loss_on: Literal["all", "last"] = "all"
    """Assistant messages that are learned: all of a chat, or the last one only."""
    learn_reasoning: bool = False
    """Also learns the `reasoning_content` of assistant messages, before their answers; otherwise it is left out."""
    show_tools: bool = True
    """Shows the `tools` of a line to the model, as its template does. The engine's own rollouts show none."""
    validation_path: str = ""
    """JSONL file on which the loss is measured; found like `job.data`."""
    eval_fraction: float = Field(0.0, ge=0, lt=1)
    """Share of the data that is held out and measured, if there is no `validation_path`."""


class SFTHyperparameters(Section):
    """`[hyperparameters]` of fine-tuning."""

    n_epochs: int = Field(1, ge=1)
    max_steps: int = Field(0, ge=0)
    """Optimizer steps, over as many epochs as they take; 0 leaves it to `n_epochs`."""
    batch_size: int = Field(32, ge=1)
    """Examples per optimizer step, of all workers together."""
    per_device_batch: int = Field(64, ge=1)
    """Most examples that a worker computes at once; the gradients of a batch are accumulated, and are exact."""
    learning_rate: float = Field(2e-5, gt=0)
    lr_schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """`cosine` ends at 5 % of the rate, `linear` at zero."""
    warmup_steps: int = Field(20, ge=0)
    warmup_ratio: float = Field(0.0, ge=0, le=1)
    """Warm-up as a share of all steps; replaces `warmup_steps` if not zero."""
    weight_decay: float = Field(0.01, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    sequence_length: int = Field(512, ge=8)
    """Longest example in tokens; longer ones are left out and counted."""
    packing: bool = False
    """Several examples per row, invisible to each other; pays when lengths differ much within a batch."""
    activation_checkpointing: bool = False
    """Computes activations twice in place of keeping them: less memory, a third more work."""
    eval_steps: int = Field(0, ge=0)
    """Steps between measurements on the held-out data; 0 measures after every epoch."""
    checkpoint_steps: int = Field(0, ge=0)
    """Steps between checkpoints; 0 keeps one after every epoch."""
    seed: int = 0


class SFTCompute(Compute):
    """`[compute]` of fine-tuning."""

    parallelism: Literal["ddp", "fsdp"] = "ddp"
    """`ddp`: every worker holds the model; `fsdp`: it is sharded over them."""


class SFTConfig(Section):
    """An SFT TOML."""

    algorithm: SFTAlgorithm = SFTAlgorithm()
    job: SFTJob
    data: SFTData = SFTData()
    lora: Lora = Lora()
    hyperparameters: SFTHyperparameters = SFTHyperparameters()
    compute: SFTCompute = SFTCompute()

    @model_validator(mode="before")
    @classmethod
    def _translate(cls, values: Any) -> Any:
        return translated(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _consistent(self) -> SFTConfig:
        if self.algorithm.variety == "qlora" and self.compute.parallelism == "fsdp":
            raise ValueError('4-bit weights are not sharded: compute.parallelism = "ddp" goes with variety = "qlora"')
        if self.data.validation_path and self.data.eval_fraction:
            raise ValueError("give data.validation_path or data.eval_fraction, not both")
        if self.data.learn_reasoning and self.data.thinking_mode == "no_think":
            raise ValueError('data.learn_reasoning teaches thoughts after prompts that ask for none ("no_think")')
        return self
