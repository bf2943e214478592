"""Fine-tuning is exact: packed or padded, one worker or two, whole or sharded, broken off or not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from synth_ray.core.errors import CorruptError
from synth_ray.learn.collate import token_batch
from synth_ray.learn.logprobs import token_logprobs
from synth_ray.learn.lora import LoraSpec, attach
from synth_ray.learn.losses import sft_loss
from synth_ray.learn.optimizer import trainable
from synth_ray.learn.packed import first_fit, packed_batch, packed_logprobs
from synth_ray.learn.sft import SftResult, SftRun, SftStep, train
from synth_ray.learn.sft_plan import Example, SftConfig, hold_out, learning_rate, plan_batches
from synth_ray.learn.sharding import gathered_state, shard
from synth_ray.learn.tiny_model import build_tiny_model
from synth_ray.learn.workers import distributed

torch.set_num_threads(1)

PAD = 1
CONFIG = SftConfig(
    epochs=3, batch_size=6, learning_rate=1e-2, weight_decay=0.01, max_length=24, seed=0, warmup_steps=2, micro_batch=2
)


def some_examples(count: int, seed: int = 0) -> list[Example]:
    """Lengths and learned tokens differ a lot; some have several learned stretches."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 25, count)
    rows = [(rng.integers(4, 14, n).tolist(), (rng.random(n) < 0.4).astype(int)) for n in lengths]
    return [Example(tuple(ids), (*mask[:-1].tolist(), 1)) for ids, mask in rows]


EXAMPLES = some_examples(20)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny")
    build_tiny_model([f"w{i}" for i in range(10)], (), directory, hidden=32, intermediate=48)
    model = base(directory)
    for parameter in model.parameters():  # far from the start, so that small mistakes show
        parameter.data.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    model.save_pretrained(directory)
    return directory


def base(model_dir: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(model_dir)


def with_adapter(model_dir: Path, dropout: float = 0.1) -> Any:
    return attach(base(model_dir), LoraSpec(r=4, alpha=8, dropout=dropout), seed=0)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def gradients(model: Any, loss: torch.Tensor) -> torch.Tensor:
    return torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, trainable(model))])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 12), st.integers(0, 10_000), st.sampled_from([24, 60, 1000]))
def test_packed_loss_and_gradients_are_the_unpacked_ones(model_dir: Path, count: int, seed: int, capacity: int) -> None:
    model = base(model_dir)
    rows = [(example.ids, example.loss_mask) for example in some_examples(count, seed)]
    padded = token_batch(rows, PAD)
    plain, plain_count = sft_loss(
        token_logprobs(model, padded.ids, padded.attention_mask, 1.0, padded.from_position), padded.loss_mask
    )
    batch = packed_batch(rows, capacity, PAD)
    packed, packed_count = sft_loss(packed_logprobs(model, batch), batch.loss_mask)
    assert packed_count == plain_count
    torch.testing.assert_close(packed, plain, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(gradients(model, packed), gradients(model, plain), atol=2e-4, rtol=1e-4)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.integers(30, 100))
def test_first_fit_places_everything_once_and_within_the_row(lengths: list[int], capacity: int) -> None:
    rows = first_fit(lengths, capacity)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in row) <= capacity for row in rows)
    assert len(rows) <= 11 / 9 * -(-sum(lengths) // capacity) * 2 + 1


def test_packed_training_is_padded_training(model_dir: Path) -> None:
    models = [base(model_dir), base(model_dir)]
    results = [
        train(model, EXAMPLES, replace(CONFIG, packing=packing), PAD, EXAMPLES[:5])
        for model, packing in zip(models, (False, True), strict=True)
    ]
    assert results[0].tokens == results[1].tokens
    assert results[1].final_loss == pytest.approx(results[0].final_loss, abs=1e-3)
    assert results[0].eval_loss is not None
    assert results[1].eval_loss == pytest.approx(results[0].eval_loss, abs=2e-3)


def test_accumulated_steps_are_steps_of_the_big_batch(model_dir: Path) -> None:
    """Micro-batches with one to twenty learned tokens: a mean of means would be far off."""
    models = [base(model_dir), base(model_dir)]
    for model, micro_batch in zip(models, (64, 1), strict=True):
        train(model, EXAMPLES, replace(CONFIG, batch_size=20, epochs=1, micro_batch=micro_batch), PAD)
    for name, value in weights(models[1]).items():
        torch.testing.assert_close(value, weights(models[0])[name], atol=2e-5, rtol=0)


class Folders:
    """Checkpoint folders without the publishing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.kept: list[Path] = []

    @contextmanager
    def __call__(self, step: int) -> Iterator[Path]:
        folder = self.root / f"step_{step}"
        folder.mkdir(parents=True)
        yield folder
        self.kept.append(folder)


class Stop(Exception):
    pass


def stop_after(steps: int) -> Any:
    def on_step(step: SftStep) -> None:
        if step.step == steps:
            raise Stop

    return on_step


@pytest.mark.parametrize("build", [base, with_adapter])
def test_a_broken_run_ends_like_an_unbroken_one(model_dir: Path, tmp_path: Path, build: Any) -> None:
    """Dropout is on for the adapter, so the random state counts too. Bit for bit."""
    config = replace(CONFIG, checkpoint_steps=3)
    whole = build(model_dir)
    expected = train(whole, EXAMPLES, config, PAD, EXAMPLES[:4])
    folders = Folders(tmp_path)
    with pytest.raises(Stop):
        train(build(model_dir), EXAMPLES, config, PAD, EXAMPLES[:4], SftRun(stop_after(8), folders))
    assert [folder.name for folder in folders.kept] == ["step_3", "step_6"]
    torch.manual_seed(99)
    resumed, steps = build(model_dir), []
    result = train(
        resumed,
        EXAMPLES,
        config,
        PAD,
        EXAMPLES[:4],
        SftRun(lambda step: steps.append(step.step), None, folders.kept[-1]),
    )
    assert result == expected
    assert steps == list(range(7, 13))
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(resumed).items())


def test_checkpoints_come_after_epochs_by_default_but_not_at_the_end(model_dir: Path, tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    train(base(model_dir), EXAMPLES, CONFIG, PAD, run=SftRun(checkpoint=folders))
    assert [folder.name for folder in folders.kept] == ["step_4", "step_8"]


def test_foreign_and_damaged_checkpoints_are_refused(model_dir: Path, tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    train(base(model_dir), EXAMPLES, CONFIG, PAD, run=SftRun(checkpoint=folders))
    folder = folders.kept[0]
    with pytest.raises(CorruptError, match="another model"):
        train(with_adapter(model_dir), EXAMPLES, CONFIG, PAD, run=SftRun(resume_from=folder))
    (folder / "optimizer.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CorruptError, match="not an optimizer state"):
        train(base(model_dir), EXAMPLES, CONFIG, PAD, run=SftRun(resume_from=folder))
    (folder / "progress.json").write_text("{}")
    with pytest.raises(CorruptError, match="no fine-tuning checkpoint"):
        train(base(model_dir), EXAMPLES, CONFIG, PAD, run=SftRun(resume_from=folder))


def test_recomputed_activations_change_nothing(model_dir: Path) -> None:
    models = [with_adapter(model_dir, dropout=0.0) for _ in range(2)]
    models[1].base_model.model.gradient_checkpointing_enable({"use_reentrant": False})
    for model in models:
        train(model, EXAMPLES, replace(CONFIG, epochs=1), PAD)
    for name, value in weights(models[1]).items():
        torch.testing.assert_close(value, weights(models[0])[name], atol=1e-6, rtol=0)


def worker(rank: int, size: int, root: str, model_dir: str, mode: str) -> None:
    """One process of a gloo group: trains, breaks off, goes on, and leaves what came out."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{root}/group", rank=rank, world_size=size)
    try:
        for kind, build in (("full", base), ("adapter", lambda path: with_adapter(path, 0.0))):
            folder = Path(root) / kind
            result = parallel_run(build(Path(model_dir)), rank, size, folder, mode == "fsdp")
            if rank == 0:
                (folder / "result.json").write_text(json.dumps(asdict(result)))
    finally:
        torch.distributed.destroy_process_group()


def parallel_run(model: Any, rank: int, size: int, folder: Path, sharded: bool) -> SftResult:
    if sharded:
        shard(model, "cpu", torch.float32)
    resume_from = folder / "step_4" if (folder / "step_4").exists() else None
    run = SftRun(None, None if resume_from else Folders(folder), resume_from)
    result = train(model, EXAMPLES, CONFIG, PAD, EXAMPLES[:5], run, distributed(rank, size, sharded))
    state = gathered_state(model, torch.float32, keep=rank == 0)
    if rank == 0:
        save_file(state, folder / "model.safetensors")
    return result


@pytest.mark.parametrize("mode", ["ddp", pytest.param("fsdp", marks=pytest.mark.long)])
def test_two_workers_are_one_worker(model_dir: Path, tmp_path: Path, mode: str) -> None:
    """20 examples in batches of 6: the last batch of two leaves a worker with one, and token counts are uneven."""
    # Forked, since importing everything anew takes longer than the training.
    arguments = (2, str(tmp_path), str(model_dir), mode)
    torch.multiprocessing.start_processes(worker, arguments, nprocs=2, start_method="fork")
    for kind, build in (("full", base), ("adapter", lambda path: with_adapter(path, 0.0))):
        alone = build(model_dir)
        expected = train(alone, EXAMPLES, CONFIG, PAD, EXAMPLES[:5])
        found = json.loads((tmp_path / kind / "result.json").read_text())
        assert (found["steps"], found["tokens"]) == (expected.steps, expected.tokens)
        assert found["final_loss"] == pytest.approx(expected.final_loss, abs=1e-4)
        assert found["eval_loss"] == pytest.approx(expected.eval_loss, abs=1e-3)
        together = load_file(tmp_path / kind / "model.safetensors")
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(together[name], value, atol=2e-3, rtol=0)
        # What two workers kept, one worker takes up.
        resumed = build(model_dir)
        train(resumed, EXAMPLES, CONFIG, PAD, EXAMPLES[:5], SftRun(resume_from=tmp_path / kind / "step_4"))
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(resumed.state_dict()[name], value, atol=2e-3, rtol=0)


def test_schedules_and_warm_up() -> None:
    def rates(**changes: Any) -> list[float]:
        config = replace(CONFIG, learning_rate=1.0, **changes)
        return [learning_rate(step, 100, config) for step in range(100)]

    assert rates(schedule="constant")[:4] == [0.5, 1.0, 1.0, 1.0]
    assert rates(schedule="linear", warmup_steps=0)[50] == pytest.approx(0.5)
    assert rates(schedule="constant", warmup_ratio=0.1)[:10] == pytest.approx([n / 10 for n in range(1, 11)])
    assert rates(schedule="cosine", warmup_steps=0)[-1] == pytest.approx(0.05, abs=1e-3)


def test_max_steps_replaces_epochs() -> None:
    lengths = [3] * 20
    plan = plan_batches(lengths, replace(CONFIG, max_steps=10))
    whole = plan_batches(lengths, CONFIG)
    assert len(plan.batches) == 10
    assert all(np.array_equal(one, other) for one, other in zip(plan.batches, whole.batches, strict=False))
    assert len(plan_batches(lengths, replace(CONFIG, epochs=9, max_steps=2)).batches) == 2


@given(st.integers(1, 50), st.floats(0, 0.99), st.integers(0, 5))
def test_held_out_examples_are_not_trained(count: int, fraction: float, seed: int) -> None:
    trained, held = hold_out(list(range(count)), fraction, seed)
    assert sorted(trained + held) == list(range(count))
    assert trained
    assert hold_out(list(range(count)), fraction, seed) == (trained, held)
    assert bool(held) == (fraction > 0 and count > 1)
