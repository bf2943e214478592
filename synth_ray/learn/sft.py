"""Supervised fine-tuning: a model learns to say the marked tokens of its examples.

Works on a whole model and on one with an adapter. Invariant: examples, configuration and seed fix the result; workers
that share the examples make the same steps as one worker would.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from synth_ray.core.errors import ConfigError
from synth_ray.learn.collate import token_batch
from synth_ray.learn.gradient import GradientStepper, Sync, alone
from synth_ray.learn.logprobs import token_logprobs
from synth_ray.learn.losses import sft_loss
from synth_ray.learn.modes import training
from synth_ray.learn.optimizer import build_optimizer, set_learning_rate
from synth_ray.learn.seeding import seeded

FINAL_LOSS_STEPS = 20
_LEAST_RATE = 0.05
_BUCKET_BATCHES = 8

OnStep = Callable[[int, int, float], None]


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids, and a mask that is 1 where the token is to be learned. Raises ValueError if the lengths differ."""

    ids: tuple[int, ...]
    loss_mask: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.loss_mask):
            raise ValueError(f"{len(self.ids)} ids but {len(self.loss_mask)} mask entries")


@dataclass(frozen=True, slots=True)
class SftConfig:
    """How a model is fine-tuned. ``max_length`` is in tokens; ``micro_batch`` examples are computed at once."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    max_length: int
    seed: int
    warmup_steps: int = 20
    betas: tuple[float, float] = (0.9, 0.98)
    max_grad_norm: float = 1.0
    micro_batch: int = 64


@dataclass(frozen=True, slots=True)
class SftResult:
    """``final_loss`` is the mean of the last 20 steps in nats per token, ``tokens`` the number of learned tokens.

    ``skipped`` counts the examples that were left out: longer than ``max_length``, or with nothing to learn.
    """

    steps: int
    final_loss: float
    tokens: int
    skipped: int


def reply_example(prompt_ids: Sequence[int], reply_ids: Sequence[int]) -> Example:
    """The example that teaches ``reply_ids`` after ``prompt_ids``."""
    return Example((*prompt_ids, *reply_ids), (0,) * len(prompt_ids) + (1,) * len(reply_ids))


def train(
    model: torch.nn.Module,
    examples: Sequence[Example],
    config: SftConfig,
    pad_id: int,
    on_step: OnStep | None = None,
    sync: Sync = alone,
    rank: int = 0,
    world_size: int = 1,
) -> SftResult:
    """Trains ``model`` in place; calls ``on_step(step, total_steps, loss)`` after each step, counted from 1.

    In parallel, every worker passes all examples, its rank and a ``sync``, and learns its share of each batch. Raises
    ConfigError if no example fits into ``max_length``, JobFailed at the third step that is not finite.
    """
    usable = [example for example in examples if _usable(example, config.max_length)]
    if not usable:
        raise ConfigError(f"none of {len(examples)} examples can be learned", hint="raise max_length or add examples")
    batches = plan_batches([len(example.ids) for example in usable], config)
    optimizer = build_optimizer(model, config.learning_rate, config.weight_decay, config.betas)
    stepper = GradientStepper(optimizer, config.max_grad_norm, sync)
    losses, tokens = [], 0
    with seeded(config.seed), training(model):
        for step, batch in enumerate(batches):
            set_learning_rate(optimizer, learning_rate(step, len(batches), config))
            loss, count = _train_batch(model, stepper, [usable[i] for i in batch[rank::world_size]], config, pad_id)
            losses.append(loss)
            tokens += count
            if on_step is not None:
                on_step(step + 1, len(batches), loss)
    return SftResult(len(batches), float(np.mean(losses[-FINAL_LOSS_STEPS:])), tokens, len(examples) - len(usable))


def learning_rate(step: int, total_steps: int, config: SftConfig) -> float:
    """The rate of ``step`` (from 0): linear warm-up times a cosine that falls to 5 % of the configured rate.

    The cosine is that of SGDR, arXiv 1608.03983, eq. 5, without restarts.
    """
    warmup = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    cosine = 0.5 * (1 + math.cos(math.pi * step / total_steps))
    return config.learning_rate * warmup * (_LEAST_RATE + (1 - _LEAST_RATE) * cosine)


def plan_batches(lengths: Sequence[int], config: SftConfig) -> list[NDArray[np.int64]]:
    """All batches of all epochs as indices, in random order but of similar length inside, so that little is padding."""
    rng = np.random.default_rng(config.seed)
    return [batch for _ in range(config.epochs) for batch in _epoch(np.asarray(lengths), config.batch_size, rng)]


def _epoch(lengths: NDArray[np.int64], batch_size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    order = rng.permutation(len(lengths))
    bucket = batch_size * _BUCKET_BATCHES
    pieces = [order[begin : begin + bucket] for begin in range(0, len(order), bucket)]
    by_length = np.concatenate([piece[np.argsort(lengths[piece], kind="stable")] for piece in pieces])
    batches = [by_length[begin : begin + batch_size] for begin in range(0, len(order), batch_size)]
    return [batches[index] for index in rng.permutation(len(batches))]


def _usable(example: Example, max_length: int) -> bool:
    return len(example.ids) <= max_length and any(example.loss_mask[1:])


def _train_batch(
    model: torch.nn.Module, stepper: GradientStepper, examples: Sequence[Example], config: SftConfig, pad_id: int
) -> tuple[float, int]:
    device = next(model.parameters()).device
    total, tokens = 0.0, 0
    for begin in range(0, len(examples), config.micro_batch):
        part = examples[begin : begin + config.micro_batch]
        batch = token_batch([(example.ids, example.loss_mask) for example in part], pad_id, device)
        logprobs = token_logprobs(model, batch.ids, batch.attention_mask, 1.0, batch.from_position)
        loss, count = sft_loss(logprobs, batch.loss_mask)
        stepper.accumulate(loss)
        total, tokens = total + float(loss.detach()), tokens + count
    stepper.step(tokens)
    return total / max(tokens, 1), tokens
