"""Fine-tuning under Ray Train: tokenised examples in, a model or adapter folder out.

Ray Train restarts workers that die; they go on from the last checkpoint in the run folder, which all of them can read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from synth_ray.core.errors import SynthRayError
from synth_ray.core.hashing import derived_seed
from synth_ray.core.sft_sections import SFTConfig, SFTData
from synth_ray.records.disk import write_atomic
from synth_ray.records.metrics import MetricsLog
from synth_ray.records.publish import latest_valid, publishing, remove_leftovers
from synth_ray.records.runs import RunDir
from synth_ray.records.sft_data import bad_line, read_sft
from synth_ray.runtime.checkpoints import checkpoint_dir, remove_old
from synth_ray.runtime.devices import TrainingSpec
from synth_ray.runtime.trainer import lora_spec

_DEFAULT = SFTData()


@dataclass(frozen=True)
class SftTask:
    """What a fine-tuning worker gets; all paths are absolute, all files are on a disk that every worker reaches.

    ``config`` names data files by absolute paths; ``out_dir`` is an unfinished folder to fill with the result;
    ``failure_file`` is where a worker says why training again would fail again.
    """

    config: SFTConfig
    model_dir: str
    run_dir: str
    out_dir: str
    failure_file: str

    @property
    def full(self) -> bool:
        """Whether all weights learn, and not just an adapter."""
        return self.config.algorithm.variety == "fft"


def fine_tune(argument: dict[str, Any]) -> Mapping[str, float]:
    """One worker (Ray Train calls it). Rank 0 writes checkpoints, metrics and the result."""
    import ray.train
    from ray.train.torch import get_device

    task: SftTask = argument["task"]
    context = ray.train.get_context()
    try:
        return run_worker(task, get_device(), context.get_world_rank(), context.get_world_size())
    except SynthRayError as error:
        # It would come again: told by file, because Ray Train would start the workers anew after an exception.
        write_atomic(Path(task.failure_file), json.dumps({"error": error.as_dict(), "exit_code": error.exit_code}))
        return {}


def run_worker(task: SftTask, device: Any, rank: int, size: int) -> Mapping[str, float]:
    """Trains as worker ``rank`` of ``size`` on ``device``; with more than one, torch.distributed has been set up."""
    import torch

    from synth_ray.learn.model_source import local_model
    from synth_ray.learn.sft import train
    from synth_ray.learn.sft_plan import hold_out
    from synth_ray.learn.workers import distributed
    from synth_ray.rollout.chat import load_chat

    torch.set_num_threads(1)
    config = task.config
    sharded = size > 1 and config.compute.parallelism == "fsdp"
    spec = TrainingSpec(device.type, frozen=not task.full, four_bit=config.algorithm.variety == "qlora")
    examples = read_examples(Path(config.job.data), task.model_dir, config.data)
    if config.data.validation_path:
        held_out = read_examples(Path(config.data.validation_path), task.model_dir, config.data)
    else:
        examples, held_out = hold_out(examples, config.data.eval_fraction, config.hyperparameters.seed)
    model = load_model(task, spec, device, sharded)
    pad_id = load_chat(str(local_model(task.model_dir))).pad_id
    with _surroundings(task, spec, rank) as run:
        result = train(model, examples, loop_config(config), pad_id, held_out, run, distributed(rank, size, sharded))
    _save(task, model, spec, rank)
    metrics = {"loss": result.final_loss, "steps": result.steps, "tokens": result.tokens}
    evaluated = {} if result.eval_loss is None else {"eval_loss": result.eval_loss}
    return {**metrics, "examples": len(examples), "skipped": result.skipped, **evaluated}


def read_examples(data: Path, model_dir: str, given: SFTData = _DEFAULT) -> list[Any]:
    """Chat lines as token ids with the loss on assistant messages. Raises CorruptError that names a bad line."""
    from synth_ray.learn.model_source import local_model
    from synth_ray.learn.sft_plan import Example
    from synth_ray.rollout.chat import load_chat

    chat = load_chat(str(local_model(model_dir)))
    examples = []
    for line in read_sft(data):
        try:
            tools = line.tools if given.show_tools else ()
            last = given.loss_on == "last"
            rows = chat.demonstrations(line.messages, tools, last, given.learn_reasoning, given.thinking)
        except ValueError as error:
            raise bad_line(data, line.line, str(error)) from error
        examples += [Example(ids, mask) for ids, mask in rows]
    return examples


def load_model(task: SftTask, spec: TrainingSpec, device: Any, sharded: bool) -> Any:
    """The model on this worker's device, with a fresh adapter unless all weights learn."""
    import torch
    from transformers import AutoModelForCausalLM

    from synth_ray.learn.lora import attach, prepare_four_bit
    from synth_ray.learn.model_source import local_model
    from synth_ray.learn.sharding import shard

    given = task.config.hyperparameters
    options = spec.loading_options(str(device))
    model = AutoModelForCausalLM.from_pretrained(
        local_model(task.model_dir), dtype=getattr(torch, spec.weights_dtype), **options
    )
    if spec.four_bit:
        model = prepare_four_bit(model)
    elif not sharded:
        model = model.to(device)
    if given.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if not task.full:
        model = attach(model, lora_spec(task.config.lora), derived_seed("lora", given.seed))
    if sharded:
        shard(model, device.type, getattr(torch, spec.compute_dtype))
    return model


def loop_config(config: SFTConfig) -> Any:
    """The sections as the training loop's own type."""
    from synth_ray.learn.sft_plan import SftConfig

    given = config.hyperparameters
    return SftConfig(
        epochs=given.n_epochs,
        batch_size=given.batch_size,
        learning_rate=given.learning_rate,
        weight_decay=given.weight_decay,
        max_length=given.sequence_length,
        seed=given.seed,
        warmup_steps=given.warmup_steps,
        warmup_ratio=given.warmup_ratio,
        schedule=given.lr_schedule,
        max_steps=given.max_steps,
        max_grad_norm=given.max_grad_norm,
        micro_batch=given.per_device_batch,
        packing=given.packing,
        eval_steps=given.eval_steps,
        checkpoint_steps=given.checkpoint_steps,
    )


@contextmanager
def _surroundings(task: SftTask, spec: TrainingSpec, rank: int) -> Iterator[Any]:
    """Metrics and checkpoints in the run folder, and this device's precision."""
    import torch

    from synth_ray.learn.sft import SftRun

    folder = RunDir(Path(task.run_dir))
    precision: Callable[[], AbstractContextManager[object]] = nullcontext
    if spec.compute_dtype != "float32":
        precision = partial(torch.autocast, spec.device, dtype=getattr(torch, spec.compute_dtype))
    latest = latest_valid(folder.checkpoints, "step_*").folder
    if rank:
        yield SftRun(resume_from=latest, precision=precision)
        return
    remove_leftovers(folder.checkpoints)
    with MetricsLog(folder.metrics) as metrics:
        yield SftRun(partial(_report, metrics), partial(_checkpoint, folder.path), latest, precision)


def _report(metrics: MetricsLog, step: Any) -> None:
    values = {
        "total": step.total,
        "loss": step.loss,
        "lr": step.learning_rate,
        "grad_norm": step.grad_norm,
        "tokens": step.tokens,
        "tokens_per_s": step.tokens / max(step.seconds, 1e-9),
    }
    metrics.append(step.step, values if step.eval_loss is None else {**values, "eval_loss": step.eval_loss})


@contextmanager
def _checkpoint(run_dir: Path, step: int) -> Iterator[Path]:
    target = checkpoint_dir(run_dir, step)
    with publishing(target, {"step": step}) as folder:
        yield folder
    remove_old(target.parent)


def _save(task: SftTask, model: Any, spec: TrainingSpec, rank: int) -> None:
    """Every worker takes part, since with shards each one has a part of the weights."""
    import torch
    from transformers import AutoTokenizer

    from synth_ray.learn.adapter_files import write_adapter
    from synth_ray.learn.lora import adapter_bytes
    from synth_ray.learn.merge import save_model
    from synth_ray.learn.model_source import local_model

    out = Path(task.out_dir)
    if not task.full:
        weights, config = adapter_bytes(model)
        if rank == 0:
            write_adapter(out, weights, config)
        return
    save_model(model, out, getattr(torch, spec.compute_dtype), keep=rank == 0)
    if rank == 0:
        AutoTokenizer.from_pretrained(local_model(task.model_dir)).save_pretrained(out)
