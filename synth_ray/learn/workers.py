"""Workers: what the trainers that share a model must add up, alone, with whole copies (DDP) or with shards (FSDP)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import Parameter

from synth_ray.learn.gradient import Sync, alone


@dataclass(frozen=True, slots=True)
class Workers:
    """This worker's place among ``size``, and how all of them add up.

    ``sync`` adds gradients and token counts; ``total`` adds lists of numbers, entry by entry. All workers must call
    either one equally often.
    """

    rank: int = 0
    size: int = 1
    sync: Sync = alone
    total: Callable[[Sequence[float]], list[float]] = list


ALONE = Workers()


def distributed(rank: int, size: int, sharded: bool = False) -> Workers:
    """The workers of torch.distributed's default group. ``sharded`` models add their gradients by themselves."""
    if size == 1:
        return ALONE
    return Workers(rank, size, count_tokens if sharded else all_reduce_sum, total_sum)


def all_reduce_sum(parameters: Sequence[Parameter], tokens: int) -> int:
    """Adds up gradients and token counts of all workers."""
    total = count_tokens(parameters, tokens)
    for parameter in parameters:
        torch.distributed.all_reduce(parameter.grad)
    return total


def count_tokens(parameters: Sequence[Parameter], tokens: int) -> int:
    """The number of tokens of all workers; gradients are left as they are."""
    count = torch.tensor([tokens], device=parameters[0].device)
    torch.distributed.all_reduce(count)
    return int(count.item())


def total_sum(values: Sequence[float]) -> list[float]:
    """``values`` added up over all workers, in float64."""
    # NCCL takes tensors of a GPU only, gloo takes those of the CPU.
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor(list(values), dtype=torch.float64, device=device)
    torch.distributed.all_reduce(tensor)
    return [float(value) for value in tensor]
