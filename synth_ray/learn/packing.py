"""Packing: the samples of one update as a few flat arrays that travel cheaply between processes.

Invariants, checked on construction: tokens are the sampled ids, never re-tokenised text; every sample has at least one
prompt token and one reply token; there is one sampler log-probability per reply token; all numbers are finite.
Knows nothing about torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

RawSample = tuple[Sequence[int], Sequence[int], Sequence[float], float]

_DTYPES: dict[str, type[np.generic]] = {
    "tokens": np.int32,
    "starts": np.int64,
    "prompt_lengths": np.int32,
    "logprobs": np.float32,
    "advantages": np.float32,
}


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """``n`` samples, one per turn: ragged arrays. Raises ValueError when they do not fit together.

    ``tokens`` (all tokens): prompt and reply ids, sample after sample; ``starts`` (n + 1): where each sample begins;
    ``prompt_lengths`` (n); ``logprobs`` (all reply tokens): natural log-probabilities under the distribution that was
    sampled from; ``advantages`` (n).
    """

    tokens: NDArray[np.int32]
    starts: NDArray[np.int64]
    prompt_lengths: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    advantages: NDArray[np.float32]

    def __post_init__(self) -> None:
        _check(self)

    def __len__(self) -> int:
        return len(self.prompt_lengths)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens per sample, prompt and reply, shape (n,)."""
        return np.diff(self.starts)

    @property
    def reply_lengths(self) -> NDArray[np.int64]:
        """Reply tokens per sample, shape (n,)."""
        return self.lengths - self.prompt_lengths

    @property
    def reply_starts(self) -> NDArray[np.int64]:
        """Where the log-probabilities of each sample begin, shape (n + 1,)."""
        return _offsets(self.reply_lengths)

    @property
    def reply_tokens(self) -> int:
        """Number of reply tokens of all samples."""
        return len(self.logprobs)

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> Samples:
        """The samples at ``indices``, in that order."""
        chosen = np.asarray(indices, dtype=np.int64)
        return Samples(
            tokens=_gather(self.tokens, self.starts, chosen),
            starts=_offsets(self.lengths[chosen]),
            prompt_lengths=self.prompt_lengths[chosen],
            logprobs=_gather(self.logprobs, self.reply_starts, chosen),
            advantages=self.advantages[chosen],
        )

    def drop_zero_advantage(self, tolerance: float = 1e-9) -> Samples:
        """Without the samples that cannot move the policy: those with ``|advantage| <= tolerance``."""
        return self.select(np.flatnonzero(np.abs(self.advantages) > tolerance))

    def shard(self, rank: int, world_size: int) -> Samples:
        """Every ``world_size``-th sample from ``rank`` on; the shards of all ranks are the whole."""
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not below world_size {world_size}")
        return self.select(np.arange(rank, len(self), world_size))

    def as_arrays(self) -> dict[str, NDArray[Any]]:
        """A plain dict of arrays, for an object store or a file."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> Samples:
    """The inverse of ``Samples.as_arrays``. Raises ValueError for a missing name or arrays that do not fit together."""
    missing = sorted(_DTYPES.keys() - arrays.keys())
    if missing:
        raise ValueError(f"samples lack {', '.join(missing)}")
    return Samples(**{name: np.asarray(arrays[name], dtype=dtype) for name, dtype in _DTYPES.items()})


def build_samples(raw: Iterable[RawSample]) -> Samples:
    """Packs ``(prompt_ids, reply_ids, logprobs, advantage)`` tuples. Raises ValueError for lengths that disagree."""
    rows = list(raw)
    for index, (_, reply, logprobs, _) in enumerate(rows):
        if len(reply) != len(logprobs):
            raise ValueError(f"sample {index}: {len(reply)} reply tokens but {len(logprobs)} log-probabilities")
    return Samples(
        tokens=np.array([token for prompt, reply, _, _ in rows for token in (*prompt, *reply)], dtype=np.int32),
        starts=_offsets(np.array([len(prompt) + len(reply) for prompt, reply, _, _ in rows], dtype=np.int64)),
        prompt_lengths=np.array([len(prompt) for prompt, _, _, _ in rows], dtype=np.int32),
        logprobs=np.array([value for _, _, logprobs, _ in rows for value in logprobs], dtype=np.float32),
        advantages=np.array([advantage for _, _, _, advantage in rows], dtype=np.float32),
    )


def minibatch_indices(n: int, minibatches: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """A random partition of ``range(n)`` into ``minibatches`` parts of nearly equal size, empty ones if n is small."""
    return np.array_split(rng.permutation(n).astype(np.int64), minibatches)


def _offsets(lengths: NDArray[Any]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _gather(flat: NDArray[Any], starts: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[Any]:
    return np.concatenate([flat[:0], *(flat[starts[i] : starts[i + 1]] for i in chosen)])


def _check(samples: Samples) -> None:
    for name, dtype in _DTYPES.items():
        array = getattr(samples, name)
        if array.ndim != 1 or array.dtype != dtype:
            raise ValueError(f"{name} must be a flat array of {dtype.__name__}, not {array.dtype} {array.shape}")
    if len(samples.starts) != len(samples) + 1 or len(samples.advantages) != len(samples):
        raise ValueError("starts, prompt_lengths and advantages disagree about the number of samples")
    if samples.starts[0] != 0 or samples.starts[-1] != len(samples.tokens) or (samples.tokens < 0).any():
        raise ValueError("starts do not cover the tokens, or a token id is negative")
    if (samples.prompt_lengths < 1).any() or (samples.reply_lengths < 1).any():
        raise ValueError("every sample needs at least one prompt token and one reply token")
    if samples.reply_lengths.sum() != len(samples.logprobs):
        raise ValueError(f"{samples.reply_lengths.sum()} reply tokens but {len(samples.logprobs)} log-probabilities")
    if not (np.isfinite(samples.logprobs).all() and np.isfinite(samples.advantages).all()):
        raise ValueError("a log-probability or an advantage is not finite")
