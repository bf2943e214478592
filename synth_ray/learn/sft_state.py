"""The state of a fine-tuning run after a step: what learns, the optimizer, and the progress, as files of a folder.

Invariant: a run restored from it goes on bit for bit, whatever the number of workers that wrote it. There is no random
state, because every step's seed derives from its number; there are no pickles.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from synth_ray.core.errors import CorruptError
from synth_ray.learn.optimizer import load_optimizer_file, optimizer_tensors
from synth_ray.learn.sharding import placed, whole

_WEIGHTS, _OPTIMIZER, _PROGRESS = "trained.safetensors", "optimizer.safetensors", "progress.json"


@dataclass(frozen=True, slots=True)
class Progress:
    """Steps done, the losses of the last ones, the tokens learned, and the last validation loss."""

    step: int = 0
    losses: tuple[float, ...] = ()
    tokens: int = 0
    eval_loss: float | None = None


@dataclass(frozen=True, slots=True)
class State:
    """Whole tensors on the CPU, and the optimizer's settings as safetensors metadata."""

    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    settings: Mapping[str, str]


def collect(model: torch.nn.Module, optimizer: Optimizer, keep: bool = True) -> State | None:
    """What learns, and its optimizer. With shards every worker must call it; None for those with ``keep`` False."""
    weights: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            tensor = whole(parameter.detach())
            if keep:
                weights[name] = tensor.cpu().contiguous()
    tensors, settings = optimizer_tensors(optimizer, keep)
    return State(weights, tensors, settings) if keep else None


def write(folder: Path, state: State, progress: Progress) -> None:
    """Writes the files; publishing the folder atomically is the caller's business."""
    save_file(dict(state.weights), folder / _WEIGHTS)
    save_file(dict(state.optimizer), folder / _OPTIMIZER, metadata=dict(state.settings))
    (folder / _PROGRESS).write_text(json.dumps(asdict(progress)), encoding="utf-8")


@torch.no_grad()
def restore(folder: Path, model: torch.nn.Module, optimizer: Optimizer) -> Progress:
    """Puts the state in ``folder`` into model and optimizer. Raises CorruptError if it is not theirs."""
    try:
        weights = load_file(folder / _WEIGHTS)
        raw = json.loads((folder / _PROGRESS).read_text(encoding="utf-8"))
        progress = Progress(**{**raw, "losses": tuple(raw["losses"])})
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CorruptError(f"{folder} is no fine-tuning checkpoint: {error}") from error
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    shapes = {name: tuple(parameter.shape) for name, parameter in learning.items()}
    if {name: tuple(value.shape) for name, value in weights.items()} != shapes:
        raise CorruptError(f"the checkpoint {folder} is of another model", "choose another --run-name")
    for name, parameter in learning.items():
        parameter.copy_(placed(weights[name], parameter))
    load_optimizer_file(optimizer, folder / _OPTIMIZER)
    return progress
