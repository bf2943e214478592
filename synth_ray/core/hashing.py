"""Canonical JSON, digests and derived seeds: equal content gives equal bytes on every machine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

_CHUNK_BYTES = 1 << 20


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; refuses NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def sha256_bytes(data: bytes) -> str:
    """Hex SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def sha256_text(text: str) -> str:
    """Hex SHA-256 of ``text`` as UTF-8."""
    return sha256_bytes(text.encode())


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def slot_id(run: str, step: int, group: int, index: int) -> str:
    """Identity of one rollout of a run: the same slot has the same id in every attempt."""
    return sha256_text(f"{run}/{step}/{group}/{index}")[:16]


def derived_seed(*parts: object, bits: int = 31) -> int:
    """A seed in [0, 2**bits) that depends on nothing but ``parts``."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") % (1 << bits)
