"""Supervised fine-tuning: a model learns to say the marked tokens of its examples.

Works on a whole model, on one with an adapter, and on a sharded one. Invariants: examples, configuration and seed fix
the result; how a batch is cut into micro-batches, rows and workers does not matter, because losses stay sums until the
tokens of all are known; a run that goes on from a checkpoint ends where it would have ended without the break.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from synth_ray.core.errors import ConfigError
from synth_ray.core.hashing import derived_seed
from synth_ray.learn.collate import token_batch
from synth_ray.learn.gradient import GradientStepper
from synth_ray.learn.logprobs import token_logprobs
from synth_ray.learn.losses import sft_loss
from synth_ray.learn.modes import training
from synth_ray.learn.optimizer import build_optimizer, set_learning_rate
from synth_ray.learn.packed import packed_batch, packed_logprobs, row_capacity
from synth_ray.learn.seeding import seeded
from synth_ray.learn.sft_plan import Example, SftConfig, learning_rate, plan_batches
from synth_ray.learn.sft_state import Progress, collect, restore, write
from synth_ray.learn.sharding import reshard
from synth_ray.learn.workers import ALONE, Workers

FINAL_LOSS_STEPS = 20


@dataclass(frozen=True, slots=True)
class SftStep:
    """What one step did; ``step`` counts from 1. Losses are nats per learned token, ``eval_loss`` None if not due.

    ``tokens`` are those that were read, prompts included, by all workers.
    """

    step: int
    total: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    seconds: float
    eval_loss: float | None = None


@dataclass(frozen=True, slots=True)
class SftResult:
    """``final_loss`` is the mean of the last 20 steps in nats per token, ``tokens`` the number of learned tokens.

    ``skipped`` counts the examples that were left out: longer than ``max_length``, or with nothing to learn.
    """

    steps: int
    final_loss: float
    tokens: int
    skipped: int
    eval_loss: float | None = None


@dataclass(frozen=True, slots=True)
class SftRun:
    """What surrounds a training run.

    ``checkpoint(step)`` gives a folder to fill that counts only if it is left without an exception; ``resume_from`` is
    such a folder. ``precision`` is entered around every forward pass.
    """

    on_step: Callable[[SftStep], None] | None = None
    checkpoint: Callable[[int], AbstractContextManager[Path]] | None = None
    resume_from: Path | None = None
    precision: Callable[[], AbstractContextManager[object]] = nullcontext


def reply_example(prompt_ids: Sequence[int], reply_ids: Sequence[int]) -> Example:
    """The example that teaches ``reply_ids`` after ``prompt_ids``."""
    return Example((*prompt_ids, *reply_ids), (0,) * len(prompt_ids) + (1,) * len(reply_ids))


def train(
    model: torch.nn.Module,
    examples: Sequence[Example],
    config: SftConfig,
    pad_id: int,
    validation: Sequence[Example] = (),
    run: SftRun | None = None,
    workers: Workers = ALONE,
) -> SftResult:
    """Trains ``model`` in place, which must be in evaluation mode or fresh.

    In parallel, every worker passes all examples and its place, and learns its share of each batch; the worker of rank
    0 reports and keeps. Raises ConfigError if no example fits into ``max_length``, JobFailed at the third step that is
    not finite, CorruptError for a checkpoint that does not fit.
    """
    usable = [example for example in examples if example.usable(config.max_length)]
    if not usable:
        raise ConfigError(f"none of {len(examples)} examples can be learned", hint="raise max_length or add examples")
    held_out = [example for example in validation if example.usable(config.max_length)]
    trainer = _Trainer(model, usable, held_out, config, pad_id, run or SftRun(), workers)
    with seeded(config.seed), training(model):
        progress = trainer.steps()
    skipped = len(examples) - len(usable)
    return SftResult(progress.step, float(np.mean(progress.losses)), progress.tokens, skipped, progress.eval_loss)


class _Trainer:
    def __init__(
        self,
        model: torch.nn.Module,
        examples: Sequence[Example],
        held_out: Sequence[Example],
        config: SftConfig,
        pad_id: int,
        run: SftRun,
        workers: Workers,
    ) -> None:
        self._model, self._config, self._pad_id, self._run, self._workers = model, config, pad_id, run, workers
        self._examples = examples
        self._held_out = sorted(held_out, key=lambda example: len(example.ids))
        self._plan = plan_batches([len(example.ids) for example in examples], config)
        self._optimizer: Optimizer = build_optimizer(model, config.learning_rate, config.weight_decay, config.betas)
        self._stepper = GradientStepper(self._optimizer, config.max_grad_norm, workers.sync)
        self._device = next(model.parameters()).device

    def steps(self) -> Progress:
        """All steps, or those that are left after the checkpoint."""
        progress = Progress()
        if self._run.resume_from is not None:
            progress = restore(self._run.resume_from, self._model, self._optimizer)
        while progress.step < len(self._plan.batches):
            progress = self._step(progress)
            if progress.step < len(self._plan.batches) and self._plan.due(progress.step, self._config.checkpoint_steps):
                self._keep(progress)
        return progress

    def _step(self, before: Progress) -> Progress:
        started = time.perf_counter()
        total = len(self._plan.batches)
        # Every step's randomness has a seed of its own, so a resumed run draws what the unbroken one would have drawn.
        torch.manual_seed(derived_seed("sft step", self._config.seed, before.step, self._workers.rank))
        rate = learning_rate(before.step, total, self._config)
        set_learning_rate(self._optimizer, rate)
        batch = [self._examples[index] for index in self._plan.batches[before.step]]
        loss = self._train_batch(batch)
        step = before.step + 1
        due = bool(self._held_out) and (step == total or self._plan.due(step, self._config.eval_steps))
        eval_loss = self._validate() if due else None
        after = Progress(
            step=step,
            losses=(*before.losses, loss)[-FINAL_LOSS_STEPS:],
            tokens=before.tokens + sum(sum(example.loss_mask[1:]) for example in batch),
            eval_loss=before.eval_loss if eval_loss is None else eval_loss,
        )
        if self._run.on_step is not None and self._workers.rank == 0:
            read, seconds = sum(len(example.ids) for example in batch), time.perf_counter() - started
            norm = self._stepper.grad_norm
            self._run.on_step(SftStep(step, total, loss, rate, norm, read, seconds, eval_loss))
        return after

    def _train_batch(self, batch: Sequence[Example]) -> float:
        total, tokens = 0.0, 0
        for part in self._parts(batch):
            loss, count = self._loss(part)
            self._stepper.accumulate(loss)
            total, tokens = total + float(loss.detach()), tokens + count
        self._stepper.step(tokens)
        return self._mean(total, tokens)

    @torch.no_grad()
    def _validate(self) -> float:
        self._model.eval()
        total, tokens = 0.0, 0
        for part in self._parts(self._held_out):
            loss, count = self._loss(part)
            total, tokens = total + float(loss), tokens + count
        self._model.train()
        reshard(self._model)
        return self._mean(total, tokens)

    def _parts(self, examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
        """This worker's micro-batches: as many for each worker, since a sharded forward pass takes all of them."""
        own, size = examples[self._workers.rank :: self._workers.size], self._config.micro_batch
        longest = math.ceil(len(examples) / self._workers.size)
        for begin in range(0, longest, size):
            yield own[begin : begin + size] or [Example((self._pad_id,) * 2, (0, 0))]

    def _loss(self, part: Sequence[Example]) -> tuple[Tensor, int]:
        rows = [(example.ids, example.loss_mask) for example in part]
        with self._run.precision():
            if self._config.packing:
                capacity = row_capacity(self._model, self._config.max_length, sum(len(ids) for ids, _ in rows))
                packed = packed_batch(rows, capacity, self._pad_id, self._device)
                return sft_loss(packed_logprobs(self._model, packed), packed.loss_mask)
            batch = token_batch(rows, self._pad_id, self._device)
            logprobs = token_logprobs(self._model, batch.ids, batch.attention_mask, 1.0, batch.from_position)
            return sft_loss(logprobs, batch.loss_mask)

    def _mean(self, total: float, tokens: int) -> float:
        everywhere, count = self._workers.total([total, float(tokens)])
        return everywhere / max(count, 1.0)

    def _keep(self, progress: Progress) -> None:
        if self._run.checkpoint is None:
            return
        state = collect(self._model, self._optimizer, keep=self._workers.rank == 0)
        if state is not None:
            with self._run.checkpoint(progress.step) as folder:
                write(folder, state, progress)
