"""Collate: ragged samples to right-padded tensors.

Invariant: padding never counts: it is masked from attention and from every loss. Shapes: B sequences, L tokens of the
longest, T = L - 1 - from_position predictions, where ``from_position`` is just before the first token that any loss
needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synth_ray.learn.packing import Samples

TrainedTokens = tuple[Sequence[int] | NDArray[np.int32], Sequence[int] | NDArray[np.int8]]


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """``ids`` and ``attention_mask`` (B, L) int64; ``loss_mask`` (B, T) float32: 1 where a token is trained."""

    ids: Tensor
    attention_mask: Tensor
    loss_mask: Tensor
    from_position: int


@dataclass(frozen=True, slots=True)
class SampleBatch:
    """``tokens``, and what was true when they were sampled: ``old_logprobs`` (B, T), ``advantages`` (B, 1), float32."""

    tokens: TokenBatch
    old_logprobs: Tensor
    advantages: Tensor


def token_batch(rows: Sequence[TrainedTokens], pad_id: int, device: torch.device | str = "cpu") -> TokenBatch:
    """Pads ``(ids, loss_mask)`` rows of equal inner length; the first token of a row is never trained."""
    width = max(len(ids) for ids, _ in rows)
    padded = np.full((len(rows), width), pad_id, dtype=np.int64)
    attention = np.zeros((len(rows), width), dtype=np.int64)
    trained = np.zeros((len(rows), width), dtype=np.float32)
    for row, (ids, loss_mask) in enumerate(rows):
        padded[row, : len(ids)] = ids
        attention[row, : len(ids)] = 1
        trained[row, : len(ids)] = loss_mask
    start = _from_position(trained)
    return TokenBatch(
        ids=torch.from_numpy(padded).to(device),
        attention_mask=torch.from_numpy(attention).to(device),
        loss_mask=torch.from_numpy(trained[:, 1 + start :]).to(device),
        from_position=start,
    )


def padded_batch(
    samples: Samples, indices: Sequence[int] | NDArray[np.int64], pad_id: int, device: torch.device | str = "cpu"
) -> SampleBatch:
    """The samples at ``indices``, padded; their reply tokens are the ones that are trained."""
    chosen = samples.select(indices)
    rows = [
        (chosen.tokens[begin:end], _reply_mask(end - begin, prompt))
        for begin, end, prompt in zip(chosen.starts[:-1], chosen.starts[1:], chosen.prompt_lengths, strict=True)
    ]
    tokens = token_batch(rows, pad_id, device)
    old_logprobs = torch.zeros(tokens.loss_mask.shape, device=device)
    # Both are in order of sample, then position, so the mask says where each log-probability belongs.
    old_logprobs[tokens.loss_mask.bool()] = torch.tensor(chosen.logprobs, device=device)
    return SampleBatch(tokens, old_logprobs, torch.tensor(chosen.advantages, device=device)[:, None])


def _reply_mask(length: int, prompt_length: int) -> NDArray[np.int8]:
    return (np.arange(length) >= prompt_length).astype(np.int8)


def _from_position(trained: NDArray[np.float32]) -> int:
    columns = np.flatnonzero(trained[:, 1:].any(axis=0))
    return int(columns[0]) if len(columns) else 0
