"""Losses: log-probabilities and advantages in, one number to minimise out. Knows nothing about models.

Invariant: every loss is a sum over reply tokens, never a mean, so that micro-batches add up and the caller divides
once by the number of tokens of the whole minibatch. Shapes: B sequences, T positions; ``mask`` (B, T) is 1 on reply
tokens, else 0; ``advantages`` is (B, 1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """Sums over reply tokens, all scalars.

    ``total`` is what to minimise; ``clipped`` counts the tokens at which the clip cut the gradient; ``approx_kl`` is
    the sum of ``old - new``, whose mean estimates KL(old || new).
    """

    total: Tensor
    clipped: Tensor
    approx_kl: Tensor


Loss = Callable[[Tensor, Tensor, Tensor, Tensor, float, float], PolicyLoss]


def ppo_clip_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip_low: float, clip_high: float
) -> PolicyLoss:
    """Clipped surrogate with one ratio per token, also GRPO's (arXiv 2402.03300, eq. 3).

    PPO, arXiv 1707.06347, eq. 7; the upper bound of its own is DAPO's clip-higher, arXiv 2503.14476, section 3.1.
    """
    change = (logprobs - old_logprobs) * mask
    return _clipped(change.exp(), change, advantages, mask, clip_low, clip_high)


def gspo_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip_low: float, clip_high: float
) -> PolicyLoss:
    """Clipped surrogate with one ratio per sequence, the geometric mean over its tokens.

    GSPO, arXiv 2507.18071, eq. 5-7, in the token form of section 4.3: the value is the sequence ratio, the gradient
    flows through each token. Sequences weigh by their length, because the sum is over tokens.
    """
    change = (logprobs - old_logprobs) * mask
    sequence_change = change.sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    ratio = torch.exp(sequence_change.detach() + logprobs - logprobs.detach())
    return _clipped(ratio, change, advantages, mask, clip_low, clip_high)


LOSSES: dict[str, Loss] = {"ppo_clip": ppo_clip_loss, "grpo": ppo_clip_loss, "gspo": gspo_loss}


def k3_kl(logprobs: Tensor, reference_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Sum over reply tokens of the k3 estimate of KL(policy || reference), a scalar that is never negative.

    Schulman, http://joschu.net/blog/kl-approx.html: ``r - 1 - log r`` with ``r = reference / policy``, for tokens that
    the policy sampled.
    """
    log_ratio = (reference_logprobs - logprobs) * mask
    return ((torch.expm1(log_ratio) - log_ratio) * mask).sum()


def sft_loss(logprobs: Tensor, mask: Tensor) -> tuple[Tensor, int]:
    """Cross-entropy in nats summed over the masked tokens, and how many they are."""
    return -(logprobs * mask).sum(), int(mask.sum())


def _clipped(
    ratio: Tensor, change: Tensor, advantages: Tensor, mask: Tensor, clip_low: float, clip_high: float
) -> PolicyLoss:
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high)
    objective = torch.minimum(ratio * advantages, bounded * advantages)
    cut = ((advantages > 0) & (ratio > 1 + clip_high)) | ((advantages < 0) & (ratio < 1 - clip_low))
    return PolicyLoss(total=-(objective * mask).sum(), clipped=(cut * mask).sum(), approx_kl=-change.detach().sum())
