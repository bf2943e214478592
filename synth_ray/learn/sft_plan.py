"""What a fine-tuning run will do, step by step, before any of it is done: examples, batches, learning rates.

Invariant: configuration and seed fix the plan, so a resumed run goes on with the very same batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from synth_ray.core.hashing import derived_seed

_LEAST_RATE = 0.05
_BUCKET_BATCHES = 8

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids, and a mask that is 1 where the token is to be learned. Raises ValueError if the lengths differ."""

    ids: tuple[int, ...]
    loss_mask: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.loss_mask):
            raise ValueError(f"{len(self.ids)} ids but {len(self.loss_mask)} mask entries")

    def usable(self, max_length: int) -> bool:
        """Whether it fits and teaches something; a first token can't be learned."""
        return len(self.ids) <= max_length and any(self.loss_mask[1:])


@dataclass(frozen=True, slots=True)
class SftConfig:
    """How a model is fine-tuned.

    ``batch_size`` examples of all workers make one optimizer step, ``micro_batch`` of one worker are computed at once.
    ``max_length`` is in tokens. ``max_steps`` replaces ``epochs``, ``warmup_ratio`` (of all steps) ``warmup_steps``,
    if not zero. ``eval_steps`` and ``checkpoint_steps`` are how often; zero means at the end of every epoch.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    max_length: int
    seed: int
    warmup_steps: int = 20
    warmup_ratio: float = 0.0
    schedule: str = "cosine"
    max_steps: int = 0
    betas: tuple[float, float] = (0.9, 0.98)
    max_grad_norm: float = 1.0
    micro_batch: int = 64
    packing: bool = False
    eval_steps: int = 0
    checkpoint_steps: int = 0

    def warmup(self, total_steps: int) -> int:
        """Steps until the rate is full."""
        return math.ceil(self.warmup_ratio * total_steps) if self.warmup_ratio else self.warmup_steps


def _cosine(done: float) -> float:
    """SGDR, arXiv 1608.03983, eq. 5, without restarts, down to 5 %."""
    return _LEAST_RATE + (1 - _LEAST_RATE) * 0.5 * (1 + math.cos(math.pi * done))


def _linear(done: float) -> float:
    return 1.0 - done


def _constant(done: float) -> float:
    return 1.0


SCHEDULES: Mapping[str, Callable[[float], float]] = {"cosine": _cosine, "linear": _linear, "constant": _constant}
"""The part of the configured rate after a share of all steps, from 0 to 1."""


def learning_rate(step: int, total_steps: int, config: SftConfig) -> float:
    """The rate of ``step`` (from 0): a linear warm-up times the schedule."""
    warmup = min(1.0, (step + 1) / max(config.warmup(total_steps), 1))
    return config.learning_rate * warmup * SCHEDULES[config.schedule](step / total_steps)


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """``batches`` of all steps as indices of examples; ``epoch_steps`` batches make one epoch."""

    batches: list[NDArray[np.int64]]
    epoch_steps: int

    def due(self, steps: int, every: int) -> bool:
        """Whether something that is done ``every`` so many steps, or every epoch if zero, is due after ``steps``."""
        return steps % (every or self.epoch_steps) == 0


def plan_batches(lengths: Sequence[int], config: SftConfig) -> BatchPlan:
    """All batches of all epochs, in random order but of similar length inside, so that little is padding."""
    rng = np.random.default_rng(config.seed)
    epoch_steps = math.ceil(len(lengths) / config.batch_size)
    epochs = math.ceil(config.max_steps / epoch_steps) if config.max_steps else config.epochs
    batches = [batch for _ in range(epochs) for batch in _epoch(np.asarray(lengths), config.batch_size, rng)]
    return BatchPlan(batches[: config.max_steps] if config.max_steps else batches, epoch_steps)


def hold_out(examples: Sequence[T], fraction: float, seed: int) -> tuple[list[T], list[T]]:
    """Examples to train on, and the share to validate on: at least one if ``fraction`` is not zero, never all."""
    count = min(math.ceil(len(examples) * fraction), len(examples) - 1)
    held = set(np.random.default_rng(derived_seed("held out", seed)).permutation(len(examples))[:count].tolist())
    trained = [example for index, example in enumerate(examples) if index not in held]
    return trained, [example for index, example in enumerate(examples) if index in held]


def _epoch(lengths: NDArray[np.int64], batch_size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    order = rng.permutation(len(lengths))
    bucket = batch_size * _BUCKET_BATCHES
    pieces = [order[begin : begin + bucket] for begin in range(0, len(order), bucket)]
    by_length = np.concatenate([piece[np.argsort(lengths[piece], kind="stable")] for piece in pieces])
    batches = [by_length[begin : begin + batch_size] for begin in range(0, len(order), batch_size)]
    return [batches[index] for index in rng.permutation(len(batches))]
