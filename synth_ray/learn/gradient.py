"""Gradient steps: sums of losses in, one guarded optimizer step out; the same for RL and SFT, alone or in parallel.

Invariants: gradients stay sums until all workers have added theirs, and are divided once by the number of tokens of
all, so that how samples are spread over micro-batches and workers does not matter; a step that is not finite is never
applied, and every worker decides so alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from synth_ray.core.errors import JobFailed

MAX_SKIPPED = 3

Sync = Callable[[Sequence[Parameter], int], int]
"""Adds up the gradients of all workers in place; takes this worker's number of tokens and returns that of all."""


def alone(parameters: Sequence[Parameter], tokens: int) -> int:
    """The ``Sync`` of a single worker: there is nothing to add."""
    return tokens


class GradientStepper:
    """Collects the gradients of one minibatch, then steps.

    ``applied`` and ``skipped`` count steps; ``grad_norm`` is the norm before clipping of the last applied step.
    """

    def __init__(self, optimizer: Optimizer, max_grad_norm: float, sync: Sync = alone) -> None:
        self.applied = 0
        self.skipped = 0
        self.grad_norm = 0.0
        self._optimizer = optimizer
        self._parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._max_grad_norm = max_grad_norm
        self._sync = sync
        self._finite = True
        optimizer.zero_grad()

    def accumulate(self, loss_sum: Tensor) -> None:
        """Adds the gradient of a loss that is a sum over tokens."""
        loss_sum.backward()
        self._finite = self._finite and bool(torch.isfinite(loss_sum))

    def step(self, tokens: int) -> None:
        """Ends a minibatch of ``tokens`` trained tokens. Does nothing if no worker had any.

        Raises JobFailed at the third step that was not finite.
        """
        self._complete_gradients()
        total = self._sync(self._parameters, tokens)
        if total:
            self._apply(total)
        self._start_minibatch()

    def _complete_gradients(self) -> None:
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if not self._finite:
            # The gradient of a bad loss may be finite; this way all workers see it after the sync and skip together.
            self._parameters[0].grad.fill_(math.nan)

    def _apply(self, tokens: int) -> None:
        for parameter in self._parameters:
            parameter.grad.div_(tokens)
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, self._max_grad_norm))
        if math.isfinite(norm):
            self._optimizer.step()
            self.applied += 1
            self.grad_norm = norm
            return
        self.skipped += 1
        if self.skipped >= MAX_SKIPPED:
            self._start_minibatch()
            raise JobFailed(
                f"{self.skipped} optimizer steps had a loss or gradient that is not finite",
                hint="lower the learning rate, or look at the rewards and log-probabilities of the batch",
                skipped_steps=self.skipped,
            )

    def _start_minibatch(self) -> None:
        self._optimizer.zero_grad()
        self._finite = True
