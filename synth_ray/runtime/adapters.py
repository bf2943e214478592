"""The adapter store: one versioned safetensors blob per name, kept until nobody can ask for it any more.

Invariants: a name never changes its content; a blob is stored only if its digest is the SHA-256 of its bytes. The store
is a cache: what it holds is also published in a run folder, and ``publish`` may be called again after a restart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from synth_ray.core.errors import AdapterMissing, WrongWeights
from synth_ray.core.hashing import sha256_bytes

STORE_NAME = "adapter-store"
NAMESPACE = "synth-ray"
KEEP_VERSIONS = 4


@dataclass(frozen=True)
class AdapterBlob:
    """``data`` are the bytes of ``adapter_model.safetensors``, ``config`` is PEFT's ``adapter_config.json``."""

    name: str
    digest: str
    config: Mapping[str, Any]
    data: bytes

    def verify(self) -> None:
        """WrongWeights if the bytes are not those that the digest names."""
        if sha256_bytes(self.data) != self.digest:
            raise WrongWeights(f"adapter {self.name} does not match its digest {self.digest[:12]}")


def version_name(run: str, version: int) -> str:
    """``run@7``."""
    return f"{run}@{version}"


class AdapterStore:
    """The state of the store actor; plain Python, so that tests need no cluster."""

    def __init__(self) -> None:
        self._blobs: dict[str, AdapterBlob] = {}

    def publish(self, blob: AdapterBlob) -> None:
        """Adds a version; the same content again is fine, other content under the name is WrongWeights."""
        blob.verify()
        known = self._blobs.get(blob.name)
        if known and known.digest != blob.digest:
            raise WrongWeights(f"adapter {blob.name} is already published with another digest")
        self._blobs[blob.name] = blob
        self._forget_old(blob.name.partition("@")[0])

    def get(self, name: str) -> AdapterBlob:
        """The blob, or AdapterMissing."""
        if name not in self._blobs:
            raise AdapterMissing(f"adapter {name} is not in the adapter store", "its publisher must publish it again")
        return self._blobs[name]

    def forget(self, run: str) -> None:
        """Drops every version of a run that has ended."""
        for name in self._versions(run):
            del self._blobs[name]

    def names(self) -> list[str]:
        """Everything held, oldest first."""
        return list(self._blobs)

    def _forget_old(self, run: str) -> None:
        for name in self._versions(run)[:-KEEP_VERSIONS]:
            del self._blobs[name]

    def _versions(self, run: str) -> list[str]:
        return [name for name in self._blobs if name.partition("@")[0] == run]


def store_actor() -> Any:
    """The cluster's store, started on first use; it outlives the job that started it."""
    import ray

    options = {"name": STORE_NAME, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
    return ray.remote(AdapterStore).options(num_cpus=0, max_restarts=-1, **options).remote()
