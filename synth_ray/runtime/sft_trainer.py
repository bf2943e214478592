"""Fine-tuning under Ray Train: tokenised examples in, a published model folder out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synth_ray.core.sections import SFTConfig
from synth_ray.runtime.trainer import gradient_sync, load_base

_PROGRESS_EVERY = 10


@dataclass(frozen=True)
class SftTask:
    """What a fine-tuning worker gets. ``data`` is a chat JSONL, ``out_dir`` an unfinished folder that it fills."""

    config: SFTConfig
    model_dir: str
    data: str
    out_dir: str
    progress_file: str


def fine_tune(argument: dict[str, Any]) -> Mapping[str, float]:
    """One worker (Ray Train calls it). Rank 0 saves model and tokenizer."""
    import ray.train
    from transformers import AutoTokenizer

    from synth_ray.learn.model_source import local_model
    from synth_ray.learn.sft import train
    from synth_ray.rollout.chat import load_chat

    task: SftTask = argument["task"]
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    model = load_base(task.model_dir)
    examples = read_examples(Path(task.data), task.model_dir)
    report = _progress(Path(task.progress_file)) if rank == 0 else None
    result = train(
        model,
        examples,
        _config(task.config),
        pad_id=load_chat(str(local_model(task.model_dir))).pad_id,
        on_step=report,
        sync=gradient_sync(workers),
        rank=rank,
        world_size=workers,
    )
    if rank == 0:
        model.save_pretrained(task.out_dir)
        AutoTokenizer.from_pretrained(local_model(task.model_dir)).save_pretrained(task.out_dir)
    return {"loss": result.final_loss, "steps": result.steps, "tokens": result.tokens, "examples": len(examples)}


def read_examples(data: Path, model_dir: str) -> list[Any]:
    """Chat lines as token ids; loss on the last assistant message only, which is the reply that the line teaches."""
    from synth_ray.learn.model_source import local_model
    from synth_ray.learn.sft import Example
    from synth_ray.records.sft_data import read_sft
    from synth_ray.rollout.chat import load_chat

    chat = load_chat(str(local_model(model_dir)))
    examples = []
    for messages in read_sft(data):
        prompt = chat.prompt_ids(messages[:-1])
        reply = chat.reply_ids(messages[-1].content)
        examples.append(Example((*prompt, *reply), (0,) * len(prompt) + (1,) * len(reply)))
    return examples


def _config(config: SFTConfig) -> Any:
    from synth_ray.learn.sft import SftConfig

    given = config.hyperparameters
    return SftConfig(
        epochs=given.n_epochs,
        batch_size=given.batch_size,
        learning_rate=given.learning_rate,
        weight_decay=given.weight_decay,
        max_length=given.sequence_length,
        seed=given.seed,
        warmup_steps=given.warmup_steps,
    )


def _progress(file: Path) -> Any:
    def report(step: int, total: int, loss: float) -> None:
        if step % _PROGRESS_EVERY == 0 or step == total:
            with file.open("a", encoding="utf-8") as log:
                log.write(json.dumps({"step": step, "total": total, "loss": loss}) + "\n")

    return report
