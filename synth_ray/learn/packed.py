"""Packed: several examples in one row, so that nothing is computed for padding.

Invariant: examples never see each other. Position ids start anew with every example, which Hugging Face models turn
into block-diagonal attention (or, with flash attention, into lengths of variable sequences); the first token of an
example is never predicted from the one before it. Shapes: R rows of L tokens, K columns where some row has a loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from synth_ray.learn.collate import TrainedTokens


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """``ids``, ``position_ids`` (R, L); ``keep`` (K,): the columns that predict; ``targets``, ``loss_mask`` (R, K)."""

    ids: Tensor
    position_ids: Tensor
    keep: Tensor
    targets: Tensor
    loss_mask: Tensor


def first_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of the examples of each row: first-fit decreasing, so at most 11/9 of the fewest rows, plus one.

    An example that is longer than ``capacity`` gets a row of its own.
    """
    rows: list[list[int]] = []
    free: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda one: -lengths[one]):
        row = next((at for at, room in enumerate(free) if room >= lengths[index]), len(rows))
        if row == len(rows):
            rows.append([])
            free.append(capacity)
        rows[row].append(index)
        free[row] -= lengths[index]
    return rows


def packed_batch(
    examples: Sequence[TrainedTokens], capacity: int, pad_id: int, device: torch.device | str = "cpu"
) -> PackedBatch:
    """Packs ``(ids, loss_mask)`` examples into rows of at most ``capacity`` tokens."""
    lengths = [len(ids) for ids, _ in examples]
    rows = first_fit(lengths, capacity)
    width = max(sum(lengths[index] for index in row) for row in rows)
    ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    positions = np.zeros((len(rows), width), dtype=np.int64)
    trained = np.zeros((len(rows), width), dtype=np.float32)
    for at, row in enumerate(rows):
        begin = 0
        for index in row:
            end = begin + lengths[index]
            ids[at, begin:end], trained[at, begin:end] = examples[index]
            positions[at, begin:end] = np.arange(lengths[index])
            trained[at, begin] = 0
            begin = end
        positions[at, begin:] = np.arange(width - begin)
    keep = np.flatnonzero(trained[:, 1:].any(axis=0))
    keep = keep if len(keep) else np.zeros(1, dtype=np.int64)
    return PackedBatch(
        ids=torch.from_numpy(ids).to(device),
        position_ids=torch.from_numpy(positions).to(device),
        keep=torch.from_numpy(keep).to(device),
        targets=torch.from_numpy(ids[:, keep + 1]).to(device),
        loss_mask=torch.from_numpy(trained[:, keep + 1]).to(device),
    )


def packed_logprobs(model: torch.nn.Module, batch: PackedBatch) -> Tensor:
    """Natural log-probabilities of ``batch.targets``, shape (R, K)."""
    output = model(input_ids=batch.ids, position_ids=batch.position_ids, use_cache=False, logits_to_keep=batch.keep)
    logits = cast(Tensor, output.logits)
    return torch.log_softmax(logits.float(), dim=-1).gather(2, batch.targets[..., None]).squeeze(2)


def row_capacity(model: torch.nn.Module, max_length: int, tokens: int) -> int:
    """Tokens per row: all of them where attention takes lengths (flash attention), else ``max_length``.

    Other attention computes whole squares of a row, so that longer rows would cost more than they save.
    """
    attention = str(getattr(getattr(model, "config", None), "_attn_implementation", ""))
    return max(tokens, max_length) if attention.startswith("flash") else max_length
