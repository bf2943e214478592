"""Sharding: parameters, gradients and optimizer state spread over the workers (FSDP, arXiv 2304.11277).

Invariant: gradients come out as sums over the workers, never as means, like everywhere else in the trainer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from synth_ray.core.errors import ConfigError


def shard(model: torch.nn.Module, device_type: str, compute_dtype: torch.dtype) -> None:
    """Shards ``model`` in place over torch.distributed's default group: each decoder layer, then the rest.

    The shards go to the workers' devices, wherever the model was. Raises
    ConfigError if the model has no list of layers.
    """
    mesh = init_device_mesh(device_type, (torch.distributed.get_world_size(),))
    policy = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32)
    for module in (*_layers(model), model):
        fully_shard(module, mesh=mesh, mp_policy=policy)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def reshard(model: torch.nn.Module) -> None:
    """Frees what a forward pass without a backward pass has left gathered; nothing to do for whole models."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor: gathered if it is a shard (then every worker must ask), else itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def placed(value: Tensor, parameter: Tensor) -> Tensor:
    """``value`` spread like ``parameter``, if that is a shard and ``value`` has its shape; else ``value``."""
    if isinstance(parameter, DTensor) and value.shape == parameter.shape:
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value


def gathered_state(model: torch.nn.Module, dtype: torch.dtype, keep: bool = True) -> dict[str, Tensor]:
    """The model's state dict on the CPU, floating-point tensors as ``dtype``; tied tensors stay one tensor.

    With shards every worker must call it; those with ``keep`` False get an empty dict.
    """
    values = model.state_dict()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    done: dict[int, Tensor] = {}
    state: dict[str, Tensor] = {}
    for name, value in values.items():
        source = parameters.get(name, value)
        if id(source) not in done:
            tensor = whole(source.detach())
            done[id(source)] = tensor.to("cpu", dtype if tensor.is_floating_point() else None) if keep else source
        state[name] = done[id(source)]
    return state if keep else {}


def _layers(model: Any) -> list[torch.nn.Module]:
    lists: list[Any] = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module)]
    if not lists:
        raise ConfigError("this model has no list of layers to shard", hint='set compute.parallelism = "ddp"')
    return list(max(lists, key=_size))


def _size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
