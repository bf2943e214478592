"""Token means: the metrics of one update that are averages over reply tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

POLICY_LOSS = "loss/policy"
REFERENCE_KL = "kl/mean"
MISMATCH = "mismatch_kl/mean"
APPROX_KL = "approx_kl/mean"
CLIP_RATIO = "clip_ratio"
ENTROPY = "entropy/mean"

_ALWAYS = (POLICY_LOSS, MISMATCH, APPROX_KL, CLIP_RATIO, ENTROPY)


class TokenMeans:
    """Adds up sums over tokens and divides at the end; each name by the tokens that it was seen on.

    ``loss/policy``: the clipped surrogate, without the KL term. ``kl/mean``: k3 estimate of KL(policy || reference),
    absent when there is no KL term. ``mismatch_kl/mean``: k3 estimate of KL(sampler || trainer) before the first
    optimizer step. ``approx_kl/mean``: mean of old minus new log-probability. ``clip_ratio``: share of tokens whose
    gradient was cut. ``entropy/mean``: nats per token.
    """

    def __init__(self) -> None:
        self._sums = dict.fromkeys(_ALWAYS, 0.0)
        self._tokens = dict.fromkeys(_ALWAYS, 0)

    def add(self, sums: Mapping[str, Tensor], tokens: int) -> None:
        """Adds scalar sums over ``tokens`` tokens; one that is not finite is left out (see ``skipped_steps``)."""
        for name, value in sums.items():
            if math.isfinite(value):
                self._sums[name] = self._sums.get(name, 0.0) + float(value)
                self._tokens[name] = self._tokens.get(name, 0) + tokens

    def as_dict(self) -> dict[str, float]:
        """Mean per token by name; zero for a name that no token was seen for."""
        return {name: total / max(self._tokens[name], 1) for name, total in self._sums.items()}
