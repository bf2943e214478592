"""Packing and collating: nothing is lost, nothing is mixed up, nonsense is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from synth_ray.learn.collate import padded_batch, token_batch
from synth_ray.learn.packing import RawSample, Samples, build_samples, from_arrays, minibatch_indices

SETTINGS = settings(max_examples=50, deadline=None, database=None, derandomize=True)
LOGPROBS = st.integers(-16, 0).map(lambda quarters: quarters / 4)
IDS = st.lists(st.integers(0, 99), min_size=1, max_size=6)


@st.composite
def raw_samples(draw: st.DrawFn) -> list[RawSample]:
    rows: list[RawSample] = []
    for _ in range(draw(st.integers(0, 8))):
        reply = draw(IDS)
        logprobs = draw(st.lists(LOGPROBS, min_size=len(reply), max_size=len(reply)))
        rows.append((draw(IDS), reply, logprobs, float(draw(st.integers(-3, 3)))))
    return rows


def unpack(samples: Samples) -> list[RawSample]:
    rows: list[RawSample] = []
    for i, prompt_length in enumerate(samples.prompt_lengths):
        ids = samples.tokens[samples.starts[i] : samples.starts[i + 1]].tolist()
        logprobs = samples.logprobs[samples.reply_starts[i] : samples.reply_starts[i + 1]].tolist()
        rows.append((ids[:prompt_length], ids[prompt_length:], logprobs, float(samples.advantages[i])))
    return rows


@SETTINGS
@given(raw_samples())
def test_packing_loses_nothing(raw: list[RawSample]) -> None:
    samples = build_samples(raw)
    assert unpack(samples) == raw
    assert unpack(from_arrays(samples.as_arrays())) == raw
    assert samples.reply_tokens == sum(len(reply) for _, reply, _, _ in raw)


@SETTINGS
@given(raw_samples(), st.integers(1, 4))
def test_shards_are_a_partition(raw: list[RawSample], world_size: int) -> None:
    shards = [unpack(build_samples(raw).shard(rank, world_size)) for rank in range(world_size)]
    assert [shards[i % world_size][i // world_size] for i in range(len(raw))] == raw
    assert sum(map(len, shards)) == len(raw)


@SETTINGS
@given(raw_samples())
def test_zero_advantages_are_dropped(raw: list[RawSample]) -> None:
    assert unpack(build_samples(raw).drop_zero_advantage()) == [row for row in raw if row[3] != 0]


@SETTINGS
@given(st.integers(0, 30), st.integers(1, 9), st.integers(0, 5))
def test_minibatches_are_a_random_partition(n: int, minibatches: int, seed: int) -> None:
    parts = minibatch_indices(n, minibatches, np.random.default_rng(seed))
    again = minibatch_indices(n, minibatches, np.random.default_rng(seed))
    assert len(parts) == minibatches
    assert sorted(np.concatenate(parts).tolist()) == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert all(np.array_equal(part, other) for part, other in zip(parts, again, strict=True))


@SETTINGS
@given(raw_samples().filter(bool))
def test_padding_keeps_every_number_at_its_token(raw: list[RawSample]) -> None:
    samples = build_samples(raw)
    order = list(reversed(range(len(raw))))
    batch = padded_batch(samples, order, pad_id=7)
    tokens, mask = batch.tokens, batch.tokens.loss_mask
    for row, index in enumerate(order):
        prompt, reply, logprobs, advantage = raw[index]
        length = len(prompt) + len(reply)
        assert tokens.ids[row, :length].tolist() == [*prompt, *reply]
        assert tokens.ids[row, length:].eq(7).all()
        assert tokens.attention_mask[row].tolist() == [1] * length + [0] * (tokens.ids.shape[1] - length)
        targets = tokens.ids[row, 1 + tokens.from_position :]
        assert targets[mask[row].bool()].tolist() == list(reply)
        assert batch.old_logprobs[row][mask[row].bool()].tolist() == logprobs
        assert batch.advantages[row].tolist() == [advantage]
    assert tokens.from_position == min(len(prompt) for prompt, *_ in raw) - 1
    assert batch.old_logprobs[~mask.bool()].eq(0).all()


def test_read_only_arrays_as_an_object_store_gives_them_are_fine() -> None:
    arrays = build_samples([([1], [2, 3], [-1.0, -2.0], 1.0)]).as_arrays()
    for array in arrays.values():
        array.flags.writeable = False
    batch = padded_batch(from_arrays(arrays), [0], pad_id=0)
    assert batch.old_logprobs.tolist() == [[-1.0, -2.0]]


def test_first_token_is_never_a_target() -> None:
    batch = token_batch([([5, 6], [1, 1]), ([5], [1])], pad_id=0)
    assert batch.loss_mask.tolist() == [[1.0], [0.0]]
    assert batch.ids.dtype == torch.int64


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (([1], [2, 3], [-1.0], 0.5), "2 reply tokens but 1"),
        (([], [2], [-1.0], 0.5), "at least one prompt token"),
        (([1], [], [], 0.5), "one reply token"),
        (([1], [2], [float("-inf")], 0.5), "not finite"),
        (([1], [2], [-1.0], float("nan")), "not finite"),
        (([1], [-2], [-1.0], 0.5), "negative"),
    ],
)
def test_nonsense_is_refused(raw: RawSample, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        build_samples([raw])


def test_arrays_that_disagree_are_refused() -> None:
    arrays = build_samples([([1], [2, 3], [-1.0, -2.0], 1.0)]).as_arrays()
    with pytest.raises(ValueError, match="lack advantages"):
        from_arrays({name: array for name, array in arrays.items() if name != "advantages"})
    with pytest.raises(ValueError, match="number of samples"):
        from_arrays({**arrays, "advantages": np.zeros(2)})
    with pytest.raises(ValueError, match="cover the tokens"):
        from_arrays({**arrays, "starts": np.array([0, 2])})
    with pytest.raises(ValueError, match="2 reply tokens but 1"):
        from_arrays({**arrays, "logprobs": np.zeros(1)})
    with pytest.raises(ValueError, match="flat array"):
        from_arrays({**arrays, "tokens": np.zeros((3, 1))})
    with pytest.raises(ValueError, match="rank 2"):
        build_samples([]).shard(2, 2)
