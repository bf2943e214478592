"""One update: deterministic, indifferent to padding and to how work is cut up, safe against NaN, and it learns."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import Parameter
from transformers import AutoModelForCausalLM

from synth_ray.core.errors import ConfigError, JobFailed
from synth_ray.core.hashing import sha256_bytes
from synth_ray.learn.advantages import outcome_advantages
from synth_ray.learn.logprobs import token_logprobs
from synth_ray.learn.lora import LoraSpec, adapter_bytes, attach, load_adapter_bytes
from synth_ray.learn.losses import LOSSES
from synth_ray.learn.optimizer import build_optimizer, load_optimizer_bytes, optimizer_bytes, trainable
from synth_ray.learn.packing import RawSample, Samples, build_samples
from synth_ray.learn.step import UpdateConfig, update
from synth_ray.learn.tiny_model import build_tiny_model

torch.set_num_threads(1)

VOCABULARY = 17
CONFIG = UpdateConfig("grpo", learning_rate=1e-2, kl_coef=0.02, minibatches=3)
ONE_STEP = replace(CONFIG, minibatches=1)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny")
    build_tiny_model([f"w{i}" for i in range(10)], (), directory, hidden=16, intermediate=24)
    model = base(directory)
    # An adapter can not move the embeddings, and those of an untrained model are too small to be sure of any token.
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.3, generator=torch.Generator().manual_seed(0))
    model.get_output_embeddings().weight.data.copy_(model.get_input_embeddings().weight.data)
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def samples(model_dir: Path) -> Samples:
    return sampled(base(model_dir), 24, seed=1)


def base(model_dir: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(model_dir)


def fresh(model_dir: Path, dropout: float = 0.0) -> Any:
    return attach(base(model_dir), LoraSpec(r=4, alpha=8, dropout=dropout), seed=0)


def sampled(model: torch.nn.Module, n: int, seed: int, shift: float = 0.0) -> Samples:
    """Random prompts and replies of many lengths, with the model's own log-probabilities plus ``shift``."""
    rng = np.random.default_rng(seed)
    rows: list[RawSample] = []
    for _ in range(n):
        prompt = rng.integers(0, VOCABULARY, rng.integers(2, 9)).tolist()
        reply = rng.integers(0, VOCABULARY, rng.integers(1, 6)).tolist()
        ids = torch.tensor([[*prompt, *reply]])
        with torch.no_grad():
            logprobs = token_logprobs(model, ids, torch.ones_like(ids), 1.0, len(prompt) - 1)[0]
        rows.append((prompt, reply, (logprobs + shift).tolist(), float(rng.normal())))
    return build_samples(rows)


def run(model: Any, samples: Samples, config: UpdateConfig, updates: int = 1, **kwargs: Any) -> dict[str, float]:
    """Some updates from a fresh optimizer; the metrics of the last."""
    optimizer = build_optimizer(model, config.learning_rate)
    metrics = [update(model, optimizer, samples, config, seed=seed, **kwargs) for seed in range(updates)]
    return metrics[-1]


def parameters_of(model: Any) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainable(model)])


def poisoned(samples: Samples, indices: Sequence[int]) -> Samples:
    """Samples whose probability ratio overflows."""
    arrays = samples.as_arrays()
    logprobs = arrays["logprobs"].copy()
    for index in indices:
        logprobs[samples.reply_starts[index]] = -1e6
    return Samples(**{**arrays, "logprobs": logprobs})


def test_metrics_have_their_names_and_are_finite(model_dir: Path, samples: Samples) -> None:
    metrics = run(fresh(model_dir), samples, CONFIG)
    assert set(metrics) == {
        *("loss/policy", "kl/mean", "mismatch_kl/mean", "approx_kl/mean", "clip_ratio", "entropy/mean"),
        *("optim/grad_norm", "optim/lr", "samples", "tokens", "optimizer_steps", "skipped_steps"),
    }
    assert all(math.isfinite(value) for value in metrics.values())
    assert (metrics["samples"], metrics["tokens"]) == (24, samples.reply_tokens)
    assert (metrics["optimizer_steps"], metrics["skipped_steps"], metrics["optim/lr"]) == (3, 0, 1e-2)
    assert 0 < metrics["entropy/mean"] < math.log(VOCABULARY)


def test_equal_runs_give_equal_bytes(model_dir: Path, samples: Samples) -> None:
    config = replace(CONFIG, epochs=2)
    models = [fresh(model_dir, dropout=0.5) for _ in range(2)]
    metrics: list[dict[str, float]] = []
    for model in models:
        torch.manual_seed(len(metrics))
        metrics.append(run(model, samples, config, updates=2))
    digests = {sha256_bytes(adapter_bytes(model)[0]) for model in models}
    assert len(digests) == 1
    assert metrics[0] == metrics[1]
    assert metrics[0]["optimizer_steps"] == 6


def test_another_seed_is_another_order(model_dir: Path, samples: Samples) -> None:
    models = [fresh(model_dir) for _ in range(2)]
    for seed, model in enumerate(models):
        update(model, build_optimizer(model, 1e-2), samples, CONFIG, seed=seed)
    assert adapter_bytes(models[0])[0] != adapter_bytes(models[1])[0]


@pytest.mark.parametrize("algorithm", LOSSES)
def test_micro_batches_and_padding_do_not_matter(model_dir: Path, samples: Samples, algorithm: str) -> None:
    """One sample per micro-batch has no padding at all."""
    results = []
    for micro_batch in (256, 5, 1):
        model = fresh(model_dir)
        config = replace(CONFIG, algorithm=algorithm, micro_batch=micro_batch, learning_rate=1e-3)
        results.append((run(model, samples, config), parameters_of(model)))
    for metrics, parameters in results[1:]:
        torch.testing.assert_close(parameters, results[0][1], atol=1e-5, rtol=0)
        assert metrics == pytest.approx(results[0][0], abs=1e-5)


def test_activations_computed_again_change_nothing(model_dir: Path, samples: Samples) -> None:
    results, forwards = [], []
    for again in (False, True):
        model, calls = base(model_dir), []
        model.get_input_embeddings().register_forward_pre_hook(lambda *_, calls=calls: calls.append("embedding"))
        model.model.layers[0].mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append("layer"))
        if again:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model = attach(model, LoraSpec(r=4, alpha=8), seed=0)
        results.append((run(model, samples, CONFIG), parameters_of(model)))
        forwards.append(calls.count("layer") - calls.count("embedding"))
    torch.testing.assert_close(results[0][1], results[1][1])
    assert results[0][0] == pytest.approx(results[1][0])
    assert forwards[0] == 0 < forwards[1], "each pass backwards computes the layer once more"


def test_update_follows_the_sign_of_the_advantage(model_dir: Path, samples: Samples) -> None:
    model = fresh(model_dir)
    before = samples.logprobs
    run(model, samples, replace(ONE_STEP, kl_coef=0.0))
    after = sampled(model, 24, seed=1).logprobs
    gain = np.repeat(samples.advantages, samples.reply_lengths) * (after - before)
    assert gain.sum() > 0


def test_reference_is_the_model_without_its_adapter(model_dir: Path, samples: Samples) -> None:
    model = fresh(model_dir)
    assert run(model, samples, ONE_STEP)["kl/mean"] == pytest.approx(0.0, abs=1e-7)
    metrics = run(model, samples, replace(ONE_STEP, kl_coef=10.0, learning_rate=0.0))
    assert metrics["kl/mean"] > 1e-5
    assert all("lora_" in name for name, parameter in model.named_parameters() if parameter.requires_grad)


def test_kl_term_pulls_back(model_dir: Path, samples: Samples) -> None:
    distances = []
    for kl_coef in (0.001, 5.0):
        model = fresh(model_dir)
        run(model, samples, replace(CONFIG, kl_coef=kl_coef), updates=4)
        distances.append(run(model, samples, replace(ONE_STEP, learning_rate=0.0))["kl/mean"])
    assert distances[1] < 0.5 * distances[0]


def test_mismatch_is_measured_before_the_first_step(model_dir: Path, samples: Samples) -> None:
    model = fresh(model_dir)
    shifted = sampled(base(model_dir), 24, seed=1, shift=-0.1)
    assert run(fresh(model_dir), samples, CONFIG)["mismatch_kl/mean"] == pytest.approx(0.0, abs=1e-7)
    metrics = run(model, shifted, CONFIG)
    assert metrics["mismatch_kl/mean"] == pytest.approx(math.expm1(0.1) - 0.1, rel=1e-3)


def test_dropout_stays_off_so_that_the_sampler_is_the_policy(model_dir: Path, samples: Samples) -> None:
    model = fresh(model_dir, dropout=0.5)
    run(model, samples, CONFIG)
    metrics = run(model, sampled(model, 24, seed=2), CONFIG)
    assert metrics["mismatch_kl/mean"] == pytest.approx(0.0, abs=1e-6)


def test_clip_ratio_counts_tokens_that_are_cut(model_dir: Path) -> None:
    stale = sampled(base(model_dir), 24, seed=1, shift=-1.0)
    raised = np.repeat(stale.advantages > 0, stale.reply_lengths)
    metrics = run(fresh(model_dir), stale, ONE_STEP)
    assert metrics["clip_ratio"] == pytest.approx(raised.mean())
    assert metrics["approx_kl/mean"] == pytest.approx(-1.0, abs=1e-4)


def test_temperature_divides_the_logits(model_dir: Path, samples: Samples) -> None:
    cold = run(fresh(model_dir), samples, replace(ONE_STEP, temperature=0.05))
    hot = run(fresh(model_dir), samples, replace(ONE_STEP, temperature=5.0))
    assert cold["entropy/mean"] < hot["entropy/mean"]


@pytest.mark.parametrize("direction", [1, -1])
def test_step_that_is_not_finite_is_not_applied(model_dir: Path, samples: Samples, direction: int) -> None:
    bad = poisoned(samples, [int(np.argmax(direction * samples.advantages))])
    model = fresh(model_dir)
    metrics = run(model, bad, CONFIG)
    assert (metrics["optimizer_steps"], metrics["skipped_steps"]) == (2, 1)
    assert all(math.isfinite(value) for value in metrics.values())
    assert torch.isfinite(parameters_of(model)).all()


def test_third_bad_step_fails_and_leaves_the_model_alone(model_dir: Path, samples: Samples) -> None:
    model = fresh(model_dir)
    before = adapter_bytes(model)[0]
    with pytest.raises(JobFailed, match="3 optimizer steps") as caught:
        run(model, poisoned(samples, range(24)), replace(CONFIG, minibatches=8))
    assert caught.value.details == {"skipped_steps": 3}
    assert adapter_bytes(model)[0] == before
    assert not model.training


def test_batch_without_samples_does_nothing(model_dir: Path) -> None:
    model = fresh(model_dir)
    before = adapter_bytes(model)[0]
    metrics = run(model, build_samples([]), CONFIG)
    assert (metrics["optimizer_steps"], metrics["samples"], metrics["loss/policy"]) == (0, 0, 0.0)
    assert adapter_bytes(model)[0] == before


def test_more_minibatches_than_samples_is_fine(model_dir: Path, samples: Samples) -> None:
    metrics = run(fresh(model_dir), samples.select([0, 1]), replace(CONFIG, minibatches=8))
    assert metrics["optimizer_steps"] == 2


def test_whole_model_is_trained_without_a_kl_term(model_dir: Path, samples: Samples) -> None:
    model = base(model_dir)
    metrics = run(model, samples, replace(CONFIG, kl_coef=0.0))
    assert "kl/mean" not in metrics
    assert metrics["optimizer_steps"] == 3
    with pytest.raises(ConfigError, match="needs an adapter"):
        run(model, samples, CONFIG)


def test_unknown_algorithm_is_refused(model_dir: Path, samples: Samples) -> None:
    with pytest.raises(ConfigError, match="unknown algorithm 'reinforce'"):
        run(fresh(model_dir), samples, replace(CONFIG, algorithm="reinforce"))


def test_state_round_trip_gives_the_identical_next_update(model_dir: Path, samples: Samples) -> None:
    model = fresh(model_dir)
    optimizer = build_optimizer(model, 1e-2)
    update(model, optimizer, samples, CONFIG, seed=0)
    adapter, state = adapter_bytes(model)[0], optimizer_bytes(optimizer)
    expected = update(model, optimizer, samples, CONFIG, seed=1)

    resumed = fresh(model_dir)
    resumed_optimizer = build_optimizer(resumed, 1e-2)
    load_adapter_bytes(resumed, adapter)
    load_optimizer_bytes(resumed_optimizer, state)
    assert optimizer_bytes(resumed_optimizer) == state
    assert update(resumed, resumed_optimizer, samples, CONFIG, seed=1) == expected
    assert adapter_bytes(resumed) == adapter_bytes(model)
    assert optimizer_bytes(resumed_optimizer) == optimizer_bytes(optimizer)


class Workers:
    """Adds the gradients of threads, as a data-parallel ``sync`` would over a network."""

    def __init__(self, n: int) -> None:
        self._barrier = threading.Barrier(n, timeout=30)
        self._given: dict[int, tuple[Sequence[Parameter], int]] = {}

    def sync(self, parameters: Sequence[Parameter], tokens: int) -> int:
        """The ``Sync`` of every worker."""
        self._given[threading.get_ident()] = (parameters, tokens)
        self._barrier.wait()
        given = list(self._given.values())
        sums = [sum(p.grad for p in same) for same in zip(*(parameters for parameters, _ in given), strict=True)]
        self._barrier.wait()
        for parameter, total in zip(parameters, sums, strict=True):
            parameter.grad = total.clone()
        return sum(tokens for _, tokens in given)


@pytest.mark.parametrize("bad", [[], [0]])
def test_two_workers_make_the_step_of_one(model_dir: Path, samples: Samples, bad: list[int]) -> None:
    samples = poisoned(samples, bad)
    single, workers = fresh(model_dir), Workers(2)
    pair = [fresh(model_dir), fresh(model_dir)]
    threads = [
        threading.Thread(target=run, args=(model, samples.shard(rank, 2), ONE_STEP), kwargs={"sync": workers.sync})
        for rank, model in enumerate(pair)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    metrics = run(single, samples, ONE_STEP)
    assert metrics["skipped_steps"] == len(bad)
    torch.testing.assert_close(parameters_of(pair[0]), parameters_of(pair[1]), atol=0, rtol=0)
    torch.testing.assert_close(parameters_of(pair[0]), parameters_of(single), atol=1e-6, rtol=0)


@pytest.mark.parametrize("algorithm", LOSSES)
def test_ten_updates_raise_the_probability_of_the_rewarded_token(model_dir: Path, algorithm: str) -> None:
    """A bandit: one prompt, one token, reward 1 for token 9."""
    model, prompt, generator = fresh(model_dir), [2, 7, 8], torch.Generator().manual_seed(0)
    optimizer = build_optimizer(model, 1e-2)
    config = UpdateConfig(algorithm, learning_rate=1e-2, minibatches=4)

    def probabilities() -> torch.Tensor:
        with torch.no_grad():
            return torch.softmax(model(torch.tensor([prompt])).logits[0, -1], dim=-1)

    before = float(probabilities()[9])
    for step in range(10):
        policy = probabilities()
        tokens = torch.multinomial(policy, 128, replacement=True, generator=generator).tolist()
        advantages = outcome_advantages([float(token == 9) for token in tokens], [1] * len(tokens), "std")
        rows: list[RawSample] = [
            (prompt, [token], [float(policy[token].log())], float(advantage[0]))
            for token, advantage in zip(tokens, advantages, strict=True)
        ]
        update(model, optimizer, build_samples(rows), config, seed=step)
    assert before < 0.1
    assert float(probabilities()[9]) > 0.4
