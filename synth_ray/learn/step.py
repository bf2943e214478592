"""One RL update: samples of one batch in, a moved policy and its metrics out.

Invariants: the order of the data derives from the seed alone; the reference policy is the same model without its
adapter; nothing here knows how many workers there are, except through ``sync``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor
from torch.optim import Optimizer

from synth_ray.core.errors import ConfigError
from synth_ray.learn.collate import SampleBatch, padded_batch
from synth_ray.learn.gradient import GradientStepper, Sync, alone
from synth_ray.learn.logprobs import entropies, log_distributions, selected, token_logprobs
from synth_ray.learn.losses import LOSSES, k3_kl
from synth_ray.learn.modes import training
from synth_ray.learn.optimizer import set_learning_rate
from synth_ray.learn.packing import Samples, minibatch_indices
from synth_ray.learn.seeding import seeded
from synth_ray.learn.token_means import (
    APPROX_KL,
    CLIP_RATIO,
    ENTROPY,
    MISMATCH,
    POLICY_LOSS,
    REFERENCE_KL,
    TokenMeans,
)

# Padding is masked from attention and from every loss, so that any id does.
_PAD_ID = 0


@dataclass(frozen=True, slots=True)
class UpdateConfig:
    """How a batch moves the policy.

    ``algorithm`` is a name of ``LOSSES``. A batch is cut into ``minibatches`` optimizer steps per epoch, each
    computed in pieces of at most ``micro_batch`` samples. ``temperature`` is the one that the samples were drawn
    with.
    """

    algorithm: str
    learning_rate: float
    clip_low: float = 0.2
    clip_high: float = 0.28
    kl_coef: float = 0.02
    minibatches: int = 8
    epochs: int = 1
    micro_batch: int = 256
    max_grad_norm: float = 1.0
    temperature: float = 1.0


def update(
    model: torch.nn.Module,
    optimizer: Optimizer,
    samples: Samples,
    config: UpdateConfig,
    seed: int,
    sync: Sync = alone,
) -> dict[str, float]:
    """Trains ``model`` in place on one batch and returns its metrics.

    They are those of ``TokenMeans``, and ``optim/grad_norm`` (last step, before clipping), ``optim/lr``,
    ``optimizer_steps``, ``skipped_steps``, ``samples`` and ``tokens`` (of replies). In parallel, each worker passes its
    shard and gets the metrics of its shard. Raises ConfigError for an unknown algorithm or a KL term without an
    adapter, JobFailed at the third step that is not finite.
    """
    _check(model, config)
    set_learning_rate(optimizer, config.learning_rate)
    stepper = GradientStepper(optimizer, config.max_grad_norm, sync)
    means = TokenMeans()
    rng = np.random.default_rng(seed)
    with seeded(seed), training(model, dropout=False):
        for _ in range(config.epochs):
            for indices in minibatch_indices(len(samples), config.minibatches, rng):
                _train_minibatch(model, stepper, samples, indices, config, means)
    return {**means.as_dict(), **_counts(stepper, samples, config)}


def _check(model: torch.nn.Module, config: UpdateConfig) -> None:
    if config.algorithm not in LOSSES:
        raise ConfigError(f"unknown algorithm {config.algorithm!r}", hint=f"choose one of {', '.join(LOSSES)}")
    if config.kl_coef and not isinstance(model, PeftModel):
        raise ConfigError("a KL term needs an adapter: the reference is the model without it", hint="set kl_coef = 0")


def _train_minibatch(
    model: torch.nn.Module,
    stepper: GradientStepper,
    samples: Samples,
    indices: NDArray[np.int64],
    config: UpdateConfig,
    means: TokenMeans,
) -> None:
    for part in _micro_batches(indices, samples.lengths, config.micro_batch):
        loss, seen = _loss(model, padded_batch(samples, part, _PAD_ID, _device(model)), config)
        stepper.accumulate(loss)
        if stepper.applied:
            # Once a step is made, sampler and trainer differ on purpose.
            del seen[MISMATCH]
        means.add(seen, int(samples.reply_lengths[part].sum()))
    stepper.step(int(samples.reply_lengths[indices].sum()))


def _micro_batches(indices: NDArray[np.int64], lengths: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    by_length = indices[np.argsort(lengths[indices], kind="stable")]
    for begin in range(0, len(by_length), size):
        yield by_length[begin : begin + size]


def _loss(model: torch.nn.Module, batch: SampleBatch, config: UpdateConfig) -> tuple[Tensor, dict[str, Tensor]]:
    tokens, mask = batch.tokens, batch.tokens.loss_mask
    distributions = log_distributions(
        model, tokens.ids, tokens.attention_mask, config.temperature, tokens.from_position
    )
    logprobs = selected(distributions, tokens.ids, tokens.from_position)
    policy = LOSSES[config.algorithm](
        logprobs, batch.old_logprobs, batch.advantages, mask, config.clip_low, config.clip_high
    )
    seen = {
        POLICY_LOSS: policy.total.detach(),
        CLIP_RATIO: policy.clipped,
        APPROX_KL: policy.approx_kl,
        ENTROPY: (entropies(distributions) * mask).sum(),
        MISMATCH: k3_kl(batch.old_logprobs, logprobs.detach(), mask),
    }
    if not config.kl_coef:
        return policy.total, seen
    kl = k3_kl(logprobs, _reference_logprobs(model, batch, config.temperature), mask)
    return policy.total + config.kl_coef * kl, {**seen, REFERENCE_KL: kl.detach()}


@torch.no_grad()
def _reference_logprobs(model: torch.nn.Module, batch: SampleBatch, temperature: float) -> Tensor:
    tokens = batch.tokens
    with model.disable_adapter():
        return token_logprobs(model, tokens.ids, tokens.attention_mask, temperature, tokens.from_position)


def _device(model: torch.nn.Module) -> torch.device:
    return next(model.parameters()).device


def _counts(stepper: GradientStepper, samples: Samples, config: UpdateConfig) -> dict[str, float]:
    return {
        "optim/grad_norm": stepper.grad_norm,
        "optim/lr": config.learning_rate,
        "optimizer_steps": stepper.applied,
        "skipped_steps": stepper.skipped,
        "samples": len(samples),
        "tokens": samples.reply_tokens,
    }
