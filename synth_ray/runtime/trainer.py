"""The learner: a Ray Train function that pulls batches from the coordinator and hands back versions.

Ray Train restarts it when it dies; it goes on from the last checkpoint that the coordinator published, not from Ray
Train's own, whose commit lags behind.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synth_ray.core.errors import JobFailed, SynthRayError
from synth_ray.core.hashing import derived_seed
from synth_ray.core.sections import Lora, RLConfig
from synth_ray.core.text import last_line
from synth_ray.runtime.checkpoints import Checkpoint
from synth_ray.runtime.coordinator import TrainedStep
from synth_ray.runtime.devices import Plan

_BATCH_POLL_S = 5.0
_CPU_SHARE = 0.1
_MAX_FAILURES = 3
_CONTROLLER_FAILURES = 2
LOSS_OF = {"grpo": "grpo", "gspo": "gspo"}


@dataclass(frozen=True)
class LearnerTask:
    """What every worker of the learner gets. ``coordinator`` is the actor's handle."""

    config: RLConfig
    model_dir: str
    coordinator: Any


def fit(train_function: Any, argument: Mapping[str, Any], plan: Plan, name: str, storage: Path) -> Any:
    """Runs ``train_function`` under Ray Train until it returns; JobFailed with the worker's own words if it can't."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    on_gpu = plan.trainer == "cuda"
    trainer = TorchTrainer(
        train_function,
        train_loop_config=dict(argument),
        torch_config=TorchConfig(backend=plan.backend),
        scaling_config=ScalingConfig(
            num_workers=plan.trainer_workers,
            use_gpu=on_gpu,
            # A share of a core, so that all roles fit a small machine: threads are set where they run.
            resources_per_worker=None if on_gpu else {"CPU": _CPU_SHARE},
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=_MAX_FAILURES, controller_failure_limit=_CONTROLLER_FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )
    try:
        return trainer.fit().return_value
    except Exception as error:
        raise _readable(error) from error


def learn(argument: dict[str, Any]) -> None:
    """One worker of the learner (Ray Train calls it): batch in, update, version out, until the last step."""
    import ray

    task: LearnerTask = argument["task"]
    try:
        _learn(task)
    except SynthRayError as error:
        # The same batch would fail again: end the run instead of letting Ray Train start this worker anew.
        ray.get(task.coordinator.abort.remote(error))


def _learn(task: LearnerTask) -> None:
    import ray
    import ray.train
    import torch

    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    learner = _Learner(task, rank, workers)
    checkpoint = ray.get(task.coordinator.resume_point.remote())
    if checkpoint is not None:
        learner.load(checkpoint)
    for step in range(learner.next_step, task.config.training.iterations):
        arrays, waited_s = _wait_for_batch(task.coordinator, step)
        result = learner.update(step, arrays, waited_s)
        if rank == 0:
            ray.get(task.coordinator.trained.remote(result))
        if workers > 1:
            torch.distributed.barrier()


class _Learner:
    """Model, adapter and optimizer of one worker."""

    def __init__(self, task: LearnerTask, rank: int, workers: int) -> None:
        from synth_ray.learn.lora import attach
        from synth_ray.learn.optimizer import build_optimizer

        self._config, self._rank, self._workers = task.config, rank, workers
        model = load_base(task.model_dir)
        training = task.config.training
        if training.activation_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self._model = attach(model, lora_spec(task.config.lora), derived_seed("lora", training.seed))
        self._optimizer = build_optimizer(self._model, training.learning_rate)
        self.next_step = 0

    def load(self, checkpoint: Checkpoint) -> None:
        """Goes on after ``checkpoint``."""
        from synth_ray.learn.lora import load_adapter_bytes
        from synth_ray.learn.optimizer import load_optimizer_bytes

        load_adapter_bytes(self._model, checkpoint.adapter)
        load_optimizer_bytes(self._optimizer, checkpoint.optimizer)
        self.next_step = checkpoint.step + 1

    def update(self, step: int, arrays: Mapping[str, Any], waited_s: float) -> TrainedStep:
        """Trains on one batch; the result holds the new adapter and the optimizer's state."""
        from synth_ray.learn.lora import adapter_bytes
        from synth_ray.learn.optimizer import optimizer_bytes
        from synth_ray.learn.packing import from_arrays
        from synth_ray.learn.step import update

        started = time.perf_counter()
        samples = from_arrays(arrays).shard(self._rank, self._workers)
        seed = derived_seed("update", self._config.training.seed, step)
        metrics = update(
            self._model, self._optimizer, samples, _update_config(self._config), seed, gradient_sync(self._workers)
        )
        adapter, config = adapter_bytes(self._model)
        metrics |= {"time/train": time.perf_counter() - started, "time/wait_for_batch": waited_s}
        return TrainedStep(step, Checkpoint(step, adapter, config, optimizer_bytes(self._optimizer)), metrics)


def load_base(model_dir: str) -> Any:
    """The model on this worker's device: float32 on CPU, bfloat16 on GPU."""
    import torch
    from ray.train.torch import get_device
    from transformers import AutoModelForCausalLM

    from synth_ray.learn.model_source import local_model

    torch.set_num_threads(1)
    device = get_device()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return AutoModelForCausalLM.from_pretrained(local_model(model_dir), dtype=dtype).to(device)


def _wait_for_batch(coordinator: Any, step: int) -> tuple[Mapping[str, Any], float]:
    import ray

    started = time.perf_counter()
    while True:
        # The coordinator bounds the wait: it ends the run, and with it this actor, when rollouts do not come.
        arrays = ray.get(coordinator.next_batch.remote(step, _BATCH_POLL_S))
        if arrays is not None:
            return arrays, time.perf_counter() - started


def lora_spec(lora: Lora) -> Any:
    """The `[lora]` section as the learner's own type."""
    from synth_ray.learn.lora import ALL_LINEAR, LoraSpec

    targets = ALL_LINEAR if lora.target_modules == "all-linear" else tuple(lora.target_modules)
    return LoraSpec(r=lora.r, alpha=lora.alpha, dropout=lora.dropout, target_modules=targets)


def _update_config(config: RLConfig) -> Any:
    from synth_ray.learn.step import UpdateConfig

    training = config.training
    return UpdateConfig(
        algorithm=LOSS_OF[config.algorithm.variety],
        learning_rate=training.learning_rate,
        clip_low=training.clip_low,
        clip_high=training.clip_high,
        kl_coef=training.kl_coef,
        minibatches=training.minibatches,
        epochs=training.epochs,
        micro_batch=training.micro_batch_size,
        max_grad_norm=training.max_grad_norm,
        temperature=config.rollout.policy_config.temperature,
    )


def gradient_sync(workers: int) -> Any:
    """How several workers add up their gradients."""
    from synth_ray.learn.gradient import alone
    from synth_ray.learn.workers import all_reduce_sum

    return alone if workers == 1 else all_reduce_sum


def _readable(error: Exception) -> SynthRayError:
    """The first error of ours inside Ray Train's, else its last line."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, SynthRayError):
            return seen
        for inner in getattr(seen, "worker_failures", {}).values():
            cause = getattr(inner, "cause", inner)
            if isinstance(cause, SynthRayError):
                return cause
        seen = seen.__cause__
    said = last_line(str(error), type(error).__name__)
    return JobFailed(f"training failed: {said}", "see the job's log for details")
