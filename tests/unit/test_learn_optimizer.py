"""Optimizer state: bytes that come back exactly, and refuse what they do not fit."""

from __future__ import annotations

import pickle

import pytest
import torch

from synth_ray.core.errors import CorruptError
from synth_ray.core.hashing import sha256_bytes
from synth_ray.learn.optimizer import (
    build_optimizer,
    load_optimizer_bytes,
    optimizer_bytes,
    set_learning_rate,
    trainable,
)


def layer(inputs: int = 3) -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(inputs, 2)


def stepped(model: torch.nn.Linear, steps: int = 2) -> torch.optim.AdamW:
    optimizer = build_optimizer(model, 0.1, weight_decay=0.01, betas=(0.8, 0.9))
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(1, model.in_features)).sum().backward()
        optimizer.step()
    return optimizer


def test_round_trip_restores_moments_steps_and_settings() -> None:
    optimizer = stepped(layer())
    other = build_optimizer(layer(), 0.5)
    load_optimizer_bytes(other, optimizer_bytes(optimizer))
    assert other.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    for name, value in optimizer.state_dict()["state"][0].items():
        assert torch.equal(other.state_dict()["state"][0][name], value)


def test_bytes_are_a_function_of_the_state() -> None:
    assert sha256_bytes(optimizer_bytes(stepped(layer()))) == sha256_bytes(optimizer_bytes(stepped(layer())))
    assert optimizer_bytes(stepped(layer(), steps=3)) != optimizer_bytes(stepped(layer(), steps=2))


def test_loaded_state_is_not_shared_with_the_bytes() -> None:
    model = layer()
    data = optimizer_bytes(stepped(layer()))
    kept = bytes(data)
    optimizer = build_optimizer(model, 0.1)
    load_optimizer_bytes(optimizer, data)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert data == kept


def test_optimizer_without_steps_round_trips() -> None:
    optimizer = build_optimizer(layer(), 0.1)
    load_optimizer_bytes(optimizer, optimizer_bytes(optimizer))
    assert optimizer.state_dict()["state"] == {}


@pytest.mark.parametrize("data", [b"", pickle.dumps({"state": {}}), b"\x02\0\0\0\0\0\0\0{}"])
def test_pickles_and_garbage_are_refused(data: bytes) -> None:
    with pytest.raises(CorruptError, match="not an optimizer state"):
        load_optimizer_bytes(build_optimizer(layer(), 0.1), data)


def test_state_of_another_model_is_refused() -> None:
    with pytest.raises(CorruptError, match="another shape"):
        load_optimizer_bytes(build_optimizer(layer(inputs=4), 0.1), optimizer_bytes(stepped(layer())))
    two_layers = torch.nn.Sequential(layer(), layer())
    with pytest.raises(CorruptError, match="another number of parameters"):
        load_optimizer_bytes(build_optimizer(two_layers, 0.1), optimizer_bytes(stepped(layer())))


def test_learning_rate_and_trainable_parameters() -> None:
    model = layer()
    model.bias.requires_grad_(False)
    optimizer = build_optimizer(model, 0.1)
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25]
    assert [parameter is model.weight for parameter in trainable(model)] == [True]
