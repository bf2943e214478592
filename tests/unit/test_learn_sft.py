"""Supervised fine-tuning: it learns what it is shown, the same way every time; the reference then agrees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from synth_ray.core.errors import ConfigError, CorruptError, NotFoundError
from synth_ray.learn.logprobs import token_logprobs
from synth_ray.learn.lora import LoraSpec, attach, save_adapter
from synth_ray.learn.optimizer import trainable
from synth_ray.learn.reference import reference_logprobs
from synth_ray.learn.sft import SftRun, SftStep, reply_example, train
from synth_ray.learn.sft_plan import Example, SftConfig, learning_rate, plan_batches
from synth_ray.learn.tiny_model import build_tiny_model
from synth_ray.learn.workers import Workers

torch.set_num_threads(1)

PAD, END = 1, 3
CONFIG = SftConfig(
    epochs=20, batch_size=8, learning_rate=1e-2, weight_decay=0.01, max_length=64, seed=0, warmup_steps=5
)
# Twenty examples of one rule: answer with the words of the prompt, the other way round.
EXAMPLES = [
    reply_example([2, 7 + i % 10, 7 + i % 7, 7 + i % 3], [7 + i % 3, 7 + i % 7, 7 + i % 10, END]) for i in range(20)
]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny")
    build_tiny_model([f"w{i}" for i in range(10)], (), directory, hidden=32, intermediate=48)
    model = base(directory)
    # An adapter can not move the embeddings, and those of an untrained model are too small to be sure of any token.
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.3, generator=torch.Generator().manual_seed(0))
    model.get_output_embeddings().weight.data.copy_(model.get_input_embeddings().weight.data)
    model.save_pretrained(directory)
    return directory


def base(model_dir: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(model_dir)


def with_adapter(model_dir: Path, dropout: float = 0.1) -> Any:
    return attach(base(model_dir), LoraSpec(r=8, alpha=16, dropout=dropout), seed=0)


def flat(model: Any) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainable(model)])


@pytest.mark.parametrize("build", [base, with_adapter])
def test_loss_falls_on_twenty_examples(model_dir: Path, build: Any) -> None:
    calls: list[SftStep] = []
    model = build(model_dir)
    result = train(model, EXAMPLES, CONFIG, PAD, run=SftRun(on_step=calls.append))
    assert [(call.step, call.total) for call in calls] == [(step, 60) for step in range(1, 61)]
    assert result.steps == 60
    assert result.tokens == 20 * 4 * 20
    assert result.skipped == 0
    assert result.final_loss == pytest.approx(np.mean([call.loss for call in calls[-20:]]))
    assert result.final_loss < calls[0].loss * (0.15 if build is base else 0.4)
    assert not model.training


def test_adapter_training_leaves_the_base_alone(model_dir: Path) -> None:
    model = with_adapter(model_dir)
    train(model, EXAMPLES, replace(CONFIG, epochs=1), PAD)
    ids = torch.tensor([[2, 7, 8]])
    with model.disable_adapter():
        assert torch.equal(model(ids).logits, base(model_dir)(ids).logits)


def test_dropout_is_on(model_dir: Path) -> None:
    models = [with_adapter(model_dir, dropout) for dropout in (0.0, 0.5)]
    for model in models:
        train(model, EXAMPLES, replace(CONFIG, epochs=1), PAD)
    assert not torch.equal(flat(models[0]), flat(models[1]))


def test_equal_runs_give_equal_weights(model_dir: Path) -> None:
    models = [with_adapter(model_dir) for _ in range(2)]
    for seed, model in enumerate(models):
        torch.manual_seed(seed)
        train(model, EXAMPLES, replace(CONFIG, epochs=2), PAD)
    assert torch.equal(flat(models[0]), flat(models[1]))


def test_micro_batches_do_not_matter(model_dir: Path) -> None:
    weights = []
    for micro_batch in (64, 3, 1):
        model = base(model_dir)
        train(model, EXAMPLES, replace(CONFIG, epochs=1, micro_batch=micro_batch), PAD)
        weights.append(flat(model))
    for other in weights[1:]:
        torch.testing.assert_close(other, weights[0], atol=1e-5, rtol=0)


def test_shares_of_all_ranks_are_the_whole(model_dir: Path) -> None:
    config = replace(CONFIG, epochs=1)
    whole = train(base(model_dir), EXAMPLES, config, PAD)
    parts = [train(base(model_dir), EXAMPLES, config, PAD, workers=Workers(rank, 3)) for rank in range(3)]
    assert {(part.tokens, part.steps) for part in parts} == {(whole.tokens, whole.steps)}


def test_only_masked_tokens_are_learned(model_dir: Path) -> None:
    """Two examples that differ in an unmasked target only teach the same."""
    results = []
    for unlearned in (7, 8):
        model = base(model_dir)
        train(model, [Example((2, 9, 9, unlearned), (0, 0, 1, 0))] * 4, replace(CONFIG, epochs=2), PAD)
        results.append(flat(model))
    assert torch.equal(*results)


def test_examples_that_cannot_be_learned_are_counted(model_dir: Path) -> None:
    examples = [*EXAMPLES, Example((5,) * 65, (1,) * 65), Example((5, 6), (1, 0))]
    assert train(base(model_dir), examples, replace(CONFIG, epochs=1), PAD).skipped == 2
    with pytest.raises(ConfigError, match="none of 2 examples"):
        train(base(model_dir), examples[-2:], CONFIG, PAD)
    with pytest.raises(ValueError, match="2 ids but 1"):
        Example((1, 2), (1,))


def test_batches_cover_every_epoch_and_hold_similar_lengths() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 100, 61).tolist()
    plan = plan_batches(lengths, replace(CONFIG, epochs=3))
    batches = plan.batches
    assert plan.epoch_steps == 8
    assert len(batches) == 3 * 8
    for epoch in range(3):
        assert sorted(np.concatenate(batches[8 * epoch : 8 * epoch + 8]).tolist()) == list(range(61))
    spread = np.mean([np.ptp(np.array(lengths)[batch]) for batch in batches])
    assert spread < 30
    again = plan_batches(lengths, replace(CONFIG, epochs=3)).batches
    assert all(np.array_equal(batch, other) for batch, other in zip(batches, again, strict=True))
    assert not np.array_equal(batches[0], plan_batches(lengths, replace(CONFIG, seed=1)).batches[0])


def test_learning_rate_warms_up_and_falls_to_five_percent() -> None:
    rates = [learning_rate(step, 1000, CONFIG) / CONFIG.learning_rate for step in range(1000)]
    assert rates[0] == pytest.approx(1 / 5)
    assert max(rates) == pytest.approx(1.0, abs=1e-3)
    assert rates[-1] == pytest.approx(0.05, abs=1e-4)
    assert rates[5:] == sorted(rates[5:], reverse=True)


def test_reference_agrees_with_the_trained_model(model_dir: Path, tmp_path: Path) -> None:
    model = with_adapter(model_dir)
    train(model, EXAMPLES, replace(CONFIG, epochs=5), PAD)
    save_adapter(model, tmp_path)
    pairs = [([2, 7, 8], [9, 10, END]), ([2], [7])]
    logprobs = reference_logprobs(model_dir, tmp_path, pairs, temperature=0.7)
    plain = reference_logprobs(model_dir, None, pairs, temperature=0.7)
    assert [len(row) for row in logprobs] == [3, 1]
    ids = torch.tensor([[2, 7, 8, 9, 10, END]])
    with torch.no_grad():
        expected = token_logprobs(model, ids, torch.ones_like(ids), 0.7)[0, 2:].tolist()
    assert logprobs[0] == pytest.approx(expected, abs=1e-6)
    assert plain[0] != pytest.approx(expected, abs=1e-2)


def test_reference_refuses_pickles_and_missing_files(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        reference_logprobs(tmp_path, None, [([2], [7])], 1.0)
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(CorruptError, match="pickled"):
        reference_logprobs(model_dir, tmp_path, [([2], [7])], 1.0)
