"""Seeding: random numbers of torch that depend on one seed and leave the rest of the process as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch draws from ``seed`` on every device; afterwards its generators continue as if nothing happened."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
