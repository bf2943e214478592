"""Log-probabilities: what a language model thinks of given tokens, at the positions that are needed and no others.

Shapes: B sequences, L tokens, V words of vocabulary, and T = L - 1 - from_position predictions: entry ``[:, t]`` is
about the token at position ``from_position + 1 + t``. Logits before ``from_position`` are never computed, because for
a large vocabulary they would cost more than the model itself.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor


def log_distributions(
    model: torch.nn.Module, ids: Tensor, attention_mask: Tensor, temperature: float, from_position: int = 0
) -> Tensor:
    """Log-probabilities of the whole vocabulary in fp32, shape (B, T, V), under softmax(logits / temperature)."""
    needed = ids.shape[1] - from_position
    output = model(input_ids=ids, attention_mask=attention_mask, use_cache=False, logits_to_keep=needed)
    logits = cast(Tensor, output.logits)
    return torch.log_softmax(logits[:, :-1].float() / temperature, dim=-1)


def selected(distributions: Tensor, ids: Tensor, from_position: int = 0) -> Tensor:
    """The entries of ``distributions`` (B, T, V) that belong to ``ids`` (B, L): shape (B, T)."""
    return distributions.gather(2, ids[:, 1 + from_position :, None]).squeeze(2)


def token_logprobs(
    model: torch.nn.Module, ids: Tensor, attention_mask: Tensor, temperature: float, from_position: int = 0
) -> Tensor:
    """Natural log-probabilities of the tokens after ``from_position``, shape (B, T)."""
    return selected(log_distributions(model, ids, attention_mask, temperature, from_position), ids, from_position)


@torch.no_grad()
def entropies(distributions: Tensor) -> Tensor:
    """Entropy in nats of each distribution, shape (B, T); carries no gradient."""
    return -(distributions.exp() * distributions).sum(dim=-1)
