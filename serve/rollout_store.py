"""The rollouts that clients asked for, in a trace database: each id once, with a digest of its request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from synth_ray.core.errors import ConflictError
from synth_ray.core.hashing import sha256_text
from synth_ray.core.types import EpisodeSpec, Rollout
from synth_ray.records.traces import TraceDB

_DIGEST = "request_sha256"


class RolloutStore:
    """Keeps rollouts in ``traces``. Its methods wait for the disk, so call them in a thread."""

    def __init__(self, traces: TraceDB) -> None:
        self._traces = traces

    def check(self, spec: EpisodeSpec) -> None:
        """ConflictError if the id of ``spec`` stands for another request, for example one of before a restart."""
        known = self._traces.session(spec.rollout_id)
        if known and known.metadata.get(_DIGEST) != _digest(spec):
            raise ConflictError(
                f"{spec.rollout_id!r} is the id of another rollout in {self._traces.path.name}",
                "give every rollout an id of its own",
            )

    def add(self, spec: EpisodeSpec, rollout: Rollout, metadata: Mapping[str, Any]) -> None:
        """Stores it, unless its id is there already: then by the same request, or ``check`` would have refused it."""
        self._traces.add([rollout], {**metadata, _DIGEST: _digest(spec)})


def _digest(spec: EpisodeSpec) -> str:
    return sha256_text(json.dumps(asdict(spec), sort_keys=True))
