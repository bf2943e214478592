"""Losses: each against the same formula written one token at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from synth_ray.learn.losses import LOSSES, gspo_loss, k3_kl, ppo_clip_loss, sft_loss

SETTINGS = settings(max_examples=60, deadline=None, database=None, derandomize=True)
LOW, HIGH = 0.2, 0.28


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probabilities, old ones, advantages and a mask with at least one token per row, in fp64."""
    rows, width = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    old = -3 * torch.rand(rows, width, generator=generator, dtype=torch.float64)
    new = old + 0.5 * torch.randn(rows, width, generator=generator, dtype=torch.float64)
    advantages = torch.randn(rows, 1, generator=generator, dtype=torch.float64)
    mask = (torch.rand(rows, width, generator=generator) < 0.7).double()
    mask[:, 0] = 1
    return new.requires_grad_(), old, advantages, mask


def reply_tokens(mask: Tensor, row: int) -> Iterator[int]:
    return (column for column in range(mask.shape[1]) if mask[row, column])


def clipped(ratio: float, advantage: float) -> float:
    return min(ratio * advantage, min(max(ratio, 1 - LOW), 1 + HIGH) * advantage)


def naive_ppo(new: Tensor, old: Tensor, advantages: Tensor, mask: Tensor) -> float:
    new, total = new.detach(), 0.0
    for row in range(len(new)):
        for column in reply_tokens(mask, row):
            total -= clipped(math.exp(new[row, column] - old[row, column]), float(advantages[row]))
    return total


def sequence_gspo(new: Tensor, old: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """GSPO eq. 5 and 7 as printed, with a differentiable sequence ratio, each sequence weighed by its length."""
    total = torch.zeros((), dtype=torch.float64)
    for row in range(len(new)):
        columns = list(reply_tokens(mask, row))
        log_ratio = sum((new[row, c] - old[row, c] for c in columns), torch.zeros((), dtype=torch.float64))
        ratio = torch.exp(log_ratio / len(columns))
        bounded = ratio.clamp(1 - LOW, 1 + HIGH)
        total = total - len(columns) * torch.minimum(ratio * advantages[row, 0], bounded * advantages[row, 0])
    return total


@SETTINGS
@given(batches())
def test_ppo_clip_equals_the_naive_loop(batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    assert ppo_clip_loss(*batch, LOW, HIGH).total.item() == pytest.approx(naive_ppo(*batch))


@SETTINGS
@given(batches())
def test_gspo_equals_the_sequence_form_in_value_and_gradient(batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    loss, expected = gspo_loss(*batch, LOW, HIGH).total, sequence_gspo(*batch)
    (gradient,) = torch.autograd.grad(loss, batch[0])
    (expected_gradient,) = torch.autograd.grad(expected, batch[0])
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, expected_gradient)


@SETTINGS
@given(batches(), st.sampled_from(sorted(LOSSES)))
def test_statistics_equal_the_naive_loop(batch: tuple[Tensor, Tensor, Tensor, Tensor], name: str) -> None:
    new, old, _, mask = batch
    loss = LOSSES[name](*batch, LOW, HIGH)
    approx_kl = sum(float(old[r, c] - new[r, c].detach()) for r in range(len(new)) for c in reply_tokens(mask, r))
    (gradient,) = torch.autograd.grad(loss.total, new)
    assert loss.approx_kl.item() == pytest.approx(approx_kl, abs=1e-9)
    assert loss.clipped.item() == int(((gradient == 0) & (mask > 0)).sum())
    assert gradient[mask == 0].eq(0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_without_change_the_gradient_is_plain_policy_gradient(name: str) -> None:
    old = torch.tensor([[-1.0, -2.0], [-0.5, -0.1]])
    new = old.clone().requires_grad_()
    advantages, mask = torch.tensor([[2.0], [-3.0]]), torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    loss = LOSSES[name](new, old, advantages, mask, LOW, HIGH)
    loss.total.backward()
    assert loss.total.item() == pytest.approx(-(2 + 2 - 3))
    assert new.grad is not None
    torch.testing.assert_close(new.grad, -advantages * mask)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "clipped_tokens"),
    [
        (1.27, 1.0, -1.27, 0),
        (1.50, 1.0, -1.28, 1),
        (1.50, -1.0, 1.50, 0),
        (0.81, -1.0, 0.81, 0),
        (0.50, -1.0, 0.80, 1),
        (0.50, 1.0, -0.50, 0),
    ],
)
@pytest.mark.parametrize("name", LOSSES)
def test_clip_bounds(name: str, ratio: float, advantage: float, expected: float, clipped_tokens: int) -> None:
    new = torch.tensor([[math.log(ratio)]])
    loss = LOSSES[name](new, torch.zeros(1, 1), torch.tensor([[advantage]]), torch.ones(1, 1), LOW, HIGH)
    assert loss.total.item() == pytest.approx(expected)
    assert loss.clipped.item() == clipped_tokens


@SETTINGS
@given(batches())
def test_k3_equals_the_naive_loop_and_is_never_negative(batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    policy, reference, _, mask = batch
    policy, expected = policy.detach(), 0.0
    for row in range(len(policy)):
        for column in reply_tokens(mask, row):
            ratio = math.exp(reference[row, column] - policy[row, column])
            expected += ratio - 1 - math.log(ratio)
    kl = k3_kl(policy, reference, mask).item()
    assert kl == pytest.approx(expected)
    assert kl >= 0
    assert k3_kl(policy, policy, mask).item() == 0


def test_k3_is_unbiased() -> None:
    policy, reference = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.3, 0.3, 0.4])
    per_token = [k3_kl(policy[i].log(), reference[i].log(), torch.ones(())) for i in range(3)]
    expectation = sum(float(policy[i]) * float(per_token[i]) for i in range(3))
    assert expectation == pytest.approx(float((policy * (policy / reference).log()).sum()), abs=1e-6)


def test_sft_loss_counts_masked_tokens_only() -> None:
    loss, count = sft_loss(torch.tensor([[-1.0, -2.0, -4.0]]), torch.tensor([[0.0, 1.0, 1.0]]))
    assert (loss.item(), count) == (6.0, 2)
