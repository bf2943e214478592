"""Gradient steps: sums become one mean over all tokens, and nothing that is not finite is ever applied."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch.nn import Parameter

from synth_ray.core.errors import JobFailed
from synth_ray.learn.gradient import GradientStepper, alone


def stepper_of(parameters: Sequence[Parameter], max_grad_norm: float = 100.0, workers: int = 1) -> GradientStepper:
    """Plain gradient descent with rate 1; every other worker has the same gradients and tokens."""

    def sync(synced: Sequence[Parameter], tokens: int) -> int:
        for parameter in synced:
            assert parameter.grad is not None
            parameter.grad.mul_(workers)
        return alone(synced, tokens * workers)

    return GradientStepper(torch.optim.SGD(list(parameters), lr=1.0), max_grad_norm, sync)


@pytest.mark.parametrize("workers", [1, 4])
def test_gradient_is_the_mean_over_all_tokens(workers: int) -> None:
    weight = Parameter(torch.zeros(2))
    stepper = stepper_of([weight], workers=workers)
    stepper.accumulate((weight * torch.tensor([6.0, 0.0])).sum())
    stepper.accumulate((weight * torch.tensor([0.0, 8.0])).sum())
    stepper.step(tokens=2)
    assert weight.tolist() == [-3.0, -4.0]
    assert (stepper.applied, stepper.skipped, stepper.grad_norm) == (1, 0, 5.0)


def test_norm_is_clipped_but_reported_whole() -> None:
    weight = Parameter(torch.zeros(2))
    stepper = stepper_of([weight], max_grad_norm=0.5)
    stepper.accumulate((weight * torch.tensor([3.0, 4.0])).sum())
    stepper.step(tokens=1)
    torch.testing.assert_close(weight.detach(), torch.tensor([-0.3, -0.4]))
    assert stepper.grad_norm == 5.0


def test_minibatches_do_not_leak_into_each_other() -> None:
    weight = Parameter(torch.zeros(()))
    stepper = stepper_of([weight])
    for expected in (-1.0, -2.0):
        stepper.accumulate(weight * 1.0)
        stepper.step(tokens=1)
        assert weight.item() == expected


def test_minibatch_without_tokens_makes_no_step() -> None:
    weight, unused = Parameter(torch.ones(())), Parameter(torch.ones(()))
    stepper = stepper_of([weight, unused])
    stepper.step(tokens=0)
    assert (stepper.applied, stepper.skipped, weight.item()) == (0, 0, 1.0)


@pytest.mark.parametrize(("factor", "offset"), [(1.0, math.inf), (1.0, math.nan), (math.inf, 0.0), (math.nan, 0.0)])
def test_bad_loss_or_gradient_is_skipped_once(factor: float, offset: float) -> None:
    weight = Parameter(torch.zeros(()))
    stepper = stepper_of([weight])
    stepper.accumulate(weight * factor + offset)
    stepper.step(tokens=1)
    assert (stepper.applied, stepper.skipped, weight.item()) == (0, 1, 0.0)
    stepper.accumulate(weight * 2.0)
    stepper.step(tokens=1)
    assert (stepper.applied, stepper.skipped, weight.item()) == (1, 1, -2.0)


def test_third_bad_step_fails() -> None:
    weight = Parameter(torch.zeros(()))
    stepper = stepper_of([weight])
    for _ in range(2):
        stepper.accumulate(weight * math.nan)
        stepper.step(tokens=1)
    stepper.accumulate(weight * math.nan)
    with pytest.raises(JobFailed, match="3 optimizer steps"):
        stepper.step(tokens=1)
    assert weight.item() == 0.0
