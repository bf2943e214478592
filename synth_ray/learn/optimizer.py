"""Optimizer: AdamW over what is trainable, and its whole state as bytes that are no pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, load_file, save
from torch import Tensor
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer

from synth_ray.core.errors import CorruptError
from synth_ray.core.hashing import canonical_json
from synth_ray.learn.sharding import placed, whole

_GROUPS = "param_groups"


def trainable(model: torch.nn.Module) -> list[Parameter]:
    """The parameters that learn, in the model's order: with LoRA the adapter's, else all."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def build_optimizer(
    model: torch.nn.Module, learning_rate: float, weight_decay: float = 0.0, betas: tuple[float, float] = (0.9, 0.95)
) -> AdamW:
    """AdamW (arXiv 1711.05101, algorithm 2) over the trainable parameters."""
    return AdamW(trainable(model), lr=learning_rate, weight_decay=weight_decay, betas=betas)


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Sets the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def optimizer_tensors(optimizer: Optimizer, keep: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Moments and step counts as whole tensors on the CPU, settings as JSON metadata: a safetensors file's content.

    With shards every worker must call it; those with ``keep`` False get no tensors.
    """
    state = optimizer.state_dict()
    tensors = {}
    for index, slots in state["state"].items():
        for name, value in slots.items():
            gathered = whole(value.detach())
            if keep:
                tensors[f"{index}/{name}"] = gathered.cpu().contiguous()
    return tensors, {_GROUPS: canonical_json(state["param_groups"])}


def optimizer_bytes(optimizer: Optimizer) -> bytes:
    """The whole state as one safetensors file."""
    tensors, metadata = optimizer_tensors(optimizer)
    data: bytes = save(tensors, metadata=metadata)
    return data


def load_optimizer_bytes(optimizer: Optimizer, data: bytes) -> None:
    """The inverse of ``optimizer_bytes``. Raises CorruptError if ``data`` is none of ours or is of other parameters."""
    try:
        _restore(optimizer, load(data), _metadata(data))
    except (SafetensorError, KeyError, ValueError) as error:
        raise CorruptError(f"not an optimizer state: {error}") from error


def load_optimizer_file(optimizer: Optimizer, path: Path) -> None:
    """The same from a file of ``optimizer_tensors``, which may have come from another number of shards."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
        _restore(optimizer, load_file(path), metadata)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CorruptError(f"{path} is not an optimizer state: {error}") from error


def _restore(optimizer: Optimizer, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    groups = json.loads(metadata[_GROUPS])
    if [group["params"] for group in groups] != [group["params"] for group in optimizer.state_dict()["param_groups"]]:
        raise CorruptError("the optimizer state has another number of parameters")
    state = _slots(tensors)
    _check_shapes(optimizer, state)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, slots in state.items():
        state[index] = {name: placed(value, parameters[index]) for name, value in slots.items()}
    for group in groups:
        group["betas"] = tuple(group["betas"])
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _metadata(data: bytes) -> dict[str, str]:
    # The header is a JSON object behind its length in eight bytes; ``load`` has checked it but gives tensors only.
    length = int.from_bytes(data[:8], "little")
    return dict(json.loads(data[8 : 8 + length]).get("__metadata__", {}))


def _slots(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition("/")
        state.setdefault(int(index), {})[name] = value
    return state


def _check_shapes(optimizer: Optimizer, state: dict[int, dict[str, Tensor]]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, slots in state.items():
        if any(value.dim() and value.shape != parameters[index].shape for value in slots.values()):
            raise CorruptError(f"the optimizer state of parameter {index} has another shape")
