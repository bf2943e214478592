"""Modes: puts a model into the state in which it learns, and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def training(model: torch.nn.Module, dropout: bool = True) -> Iterator[None]:
    """Inside, the model is in training mode; afterwards in evaluation mode.

    Without ``dropout`` its dropout layers stay off, because a policy ratio must compare the policy that sampled.
    """
    model.train()
    if not dropout:
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.eval()
    try:
        yield
    finally:
        model.eval()
