from typing import Any

import pytest
import torch
from torch import nn, optim

from fedkd.models.optimizers import load_optimizer, make_optimizer, optimizer_state
from fedkd.models.pool import snapshot
from fedkd.testing.toys import digest_of, stored

OPTIMIZERS = ["sgd", "adam", "adamw"]


def start(name: str) -> tuple[nn.Module, optim.Optimizer]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
    return model, make_optimizer(name, model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)


def train(model: nn.Module, optimizer: optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.linspace(-1, 1 + step, 6).reshape(2, 3)
        optimizer.zero_grad()
        (model(x) ** 2).sum().backward()
        optimizer.step()


def resumed(name: str, state: Any, weights: Any) -> tuple[nn.Module, optim.Optimizer]:
    model, optimizer = start(name)
    model.load_state_dict(weights)
    load_optimizer(optimizer, state)
    return model, optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_three_steps_and_three_more_equal_six(name: str) -> None:
    straight, optimizer = start(name)
    train(straight, optimizer, range(6))

    model, first = start(name)
    train(model, first, range(3))
    weights, state = stored(snapshot(model)), stored(optimizer_state(first))
    model, second = resumed(name, state, weights)
    train(model, second, range(3, 6))
    assert digest_of(snapshot(model)) == digest_of(snapshot(straight))
    assert digest_of(optimizer_state(second)) == digest_of(optimizer_state(optimizer))

    forgetful, third = resumed(name, {}, weights)  # an empty state leaves the optimiser fresh
    train(forgetful, third, range(3, 6))
    assert digest_of(snapshot(forgetful)) != digest_of(snapshot(straight))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_on_touches_no_state_that_went_in_or_came_out(name: str) -> None:
    model, optimizer = start(name)
    train(model, optimizer, range(2))
    state = optimizer_state(optimizer)
    before = digest_of(state)
    train(model, optimizer, range(2, 4))
    assert digest_of(state) == before
    model, optimizer = resumed(name, state, snapshot(model))
    train(model, optimizer, range(2, 4))
    assert digest_of(state) == before


def test_the_settings_are_those_that_were_asked_for() -> None:
    _, sgd = start("sgd")
    assert isinstance(sgd, optim.SGD)
    assert {key: sgd.param_groups[0][key] for key in ("lr", "momentum", "weight_decay")} == {
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 0.01,
    }
    _, adamw = start("adamw")
    assert isinstance(adamw, optim.AdamW)
    assert (adamw.param_groups[0]["lr"], adamw.param_groups[0]["weight_decay"]) == (0.1, 0.01)
    _, adam = start("adam")
    assert isinstance(adam, optim.Adam)
    assert (adam.param_groups[0]["lr"], adam.param_groups[0]["weight_decay"]) == (0.1, 0.01)


def test_a_loaded_state_never_brings_back_an_old_learning_rate() -> None:
    model, optimizer = start("sgd")
    train(model, optimizer, range(1))
    slower = make_optimizer("sgd", model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0)
    load_optimizer(slower, optimizer_state(optimizer))
    assert slower.param_groups[0]["lr"] == 0.01


def test_sgd_without_momentum_has_nothing_to_keep() -> None:
    model, _ = start("sgd")
    plain = make_optimizer("sgd", model.parameters(), lr=0.1, momentum=0.0, weight_decay=0.0)
    train(model, plain, range(2))
    assert optimizer_state(plain) == {}


def test_more_than_ten_parameters_keep_their_places() -> None:
    model = nn.Sequential(*[nn.Linear(1, 1) for _ in range(6)])  # 12 parameters: "10" sorts before "2"
    optimizer = make_optimizer("sgd", model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.0)
    model(torch.ones(1, 1)).sum().backward()
    optimizer.step()
    other = make_optimizer("sgd", model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.0)
    load_optimizer(other, stored(optimizer_state(optimizer)))
    for parameter in model.parameters():
        assert torch.equal(other.state[parameter]["momentum_buffer"], optimizer.state[parameter]["momentum_buffer"])
