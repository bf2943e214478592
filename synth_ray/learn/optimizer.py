"""Optimizer: AdamW over what is trainable, and its whole state as bytes that are no pickle."""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer

from synth_ray.core.errors import CorruptError
from synth_ray.core.hashing import canonical_json

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


def optimizer_bytes(optimizer: Optimizer) -> bytes:
    """The whole state as one safetensors file: moments and step counts as tensors, settings as JSON metadata."""
    state = optimizer.state_dict()
    tensors = {
        f"{index}/{name}": value.detach().cpu().contiguous()
        for index, slots in state["state"].items()
        for name, value in slots.items()
    }
    data: bytes = save(tensors, metadata={_GROUPS: canonical_json(state["param_groups"])})
    return data


def load_optimizer_bytes(optimizer: Optimizer, data: bytes) -> None:
    """The inverse of ``optimizer_bytes``. Raises CorruptError if ``data`` is none of ours or is of other parameters."""
    try:
        tensors = load(data)
        groups = json.loads(_metadata(data)[_GROUPS])
    except (SafetensorError, KeyError, ValueError) as error:
        raise CorruptError(f"not an optimizer state: {error}") from error
    if [group["params"] for group in groups] != [group["params"] for group in optimizer.state_dict()["param_groups"]]:
        raise CorruptError("the optimizer state has another number of parameters")
    state = _slots(tensors)
    _check_shapes(optimizer, state)
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
