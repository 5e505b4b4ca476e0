import itertools
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedkd.models.build import build_model
from fedkd.models.config import ModelConfig
from fedkd.models.spec import ModelSpec
from fedkd.models.stacked import Stack, why_not_stackable
from fedkd.models.twins import Descent

pytestmark = pytest.mark.usefixtures("one_torch_thread")

SHAPES: Mapping[str, tuple[int, ...]] = {"mlp": (6,), "cnn": (1, 16, 16), "resnet8": (3, 8, 8)}
DESCENTS = {
    "plain": Descent(),
    "decay": Descent(weight_decay=0.1),
    "momentum": Descent(momentum=0.9, weight_decay=0.1),
    "clipped": Descent(clip_norm=0.05),
    "clipped momentum": Descent(momentum=0.5, weight_decay=0.1, clip_norm=0.05),
}
LR = 0.1
TOLERANCE = {"atol": 2e-6, "rtol": 1e-4}  # what docs/engine.md states for one round


def model_of(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    if name == "normed":
        return nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, 3, bias=False))
    spec = ModelSpec(input_shape=SHAPES[name], num_outputs=3)
    model = build_model(name, ModelConfig(hidden=7), spec)
    return model.to(memory_format=torch.channels_last) if spec.takes_images else model


def batches_of(name: str, clients: int, steps: int, size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    shape = SHAPES.get(name, (6,))
    x = torch.randn(steps, clients, size, *shape, generator=generator)
    return x, torch.randint(0, 3, (steps, clients, size), generator=generator)


def alone(model: nn.Module, descent: Descent, x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], dict[int, Tensor]]:
    """Weights and momentum after the batches x (steps, b, ...), by torch's own optimiser."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=descent.momentum, weight_decay=descent.weight_decay)
    for batch, labels in zip(x, y, strict=True):
        optimizer.zero_grad()
        functional.cross_entropy(model(batch), labels).backward()
        if descent.clip_norm:
            nn.utils.clip_grad_norm_(model.parameters(), descent.clip_norm)
        optimizer.step()
    slots = optimizer.state_dict()["state"]
    return model.state_dict(), {i: slot["momentum_buffer"] for i, slot in slots.items()}


@pytest.mark.parametrize("name", [*SHAPES, "normed"])
@pytest.mark.parametrize("descent", DESCENTS.values(), ids=DESCENTS)
def test_every_client_comes_out_as_if_it_were_alone(name: str, descent: Descent) -> None:
    """Three clients, of which the last stops one step earlier; then once more from the state that came out."""
    models = [model_of(name, seed) for seed in range(3)]
    weights, optimizers = [{k: v.clone() for k, v in m.state_dict().items()} for m in models], [{}, {}, {}]
    x, y = batches_of(name, 3, 4, 4)
    steps = [4, 4, 3]
    stack = Stack(model_of(name), descent)
    for half in (slice(0, 2), slice(2, 4)):
        stack.load(weights, optimizers)
        for step in range(half.start, half.stop):
            active = sum(count > step for count in steps)
            stack.begin(active, LR)
            logits = stack.answer(x[step, :active].flatten(0, 1))
            losses = functional.cross_entropy(logits, y[step, :active].flatten(), reduction="none")
            stack.step(losses.view(active, -1).mean(1).sum())
        found = stack.unload()
        weights, optimizers = [each[0] for each in found], [each[1] for each in found]
    for i, model in enumerate(models):
        expected, momenta = alone(model, descent, x[: steps[i], i], y[: steps[i], i])
        assert list(weights[i]) == list(expected)
        for key, value in expected.items():
            torch.testing.assert_close(weights[i][key], value, **TOLERANCE)
        assert [*optimizers[i]] == [str(position) for position in momenta]
        for position, value in momenta.items():
            torch.testing.assert_close(optimizers[i][str(position)]["momentum_buffer"], value, **TOLERANCE)


def test_clients_may_change_places() -> None:
    weights = [model_of("mlp", seed).state_dict() for seed in range(3)]
    stack = Stack(model_of("mlp"), Descent(momentum=0.9))
    stack.load(weights, [{}, {}, {}])
    stack.reorder(np.array([2, 0, 1]))
    for (found, _), expected in zip(stack.unload(), [weights[2], weights[0], weights[1]], strict=True):
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_the_architecture_that_lends_its_layers_stays_as_it_is() -> None:
    model = model_of("cnn")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    stack = Stack(model, Descent())
    stack.load([before, before], [{}, {}])
    stack.begin(2, LR)
    stack.step(stack.answer(torch.randn(8, 1, 16, 16)).square().sum())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not torch.equal(stack.unload()[0][0]["0.weight"], before["0.weight"])


def test_a_layer_that_is_asked_twice_in_a_step_is_noticed() -> None:
    stack = Stack(model_of("mlp"), Descent())
    stack.load([model_of("mlp").state_dict()], [{}])
    stack.begin(1, LR)
    stack.answer(torch.randn(2, 6))
    with pytest.raises(RuntimeError, match="Linear layer was asked twice"):
        stack.answer(torch.randn(2, 6))


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)


REFUSED: Mapping[str, tuple[Callable[[], nn.Module], str]] = {
    "batch norm": (lambda: nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), "1 is a BatchNorm1d"),
    "dropout": (lambda: nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)), "1 is a Dropout"),
    "own module": (Own, "the model is a Own"),
    "shared layer": (lambda: nn.Sequential(*itertools.repeat(nn.Linear(2, 2), 2)), "stands in it twice"),
    "frozen": (lambda: nn.Sequential(nn.Linear(2, 2)).requires_grad_(False), "frozen"),
    "circular": (lambda: nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")), "'circular'"),
}


@pytest.mark.parametrize("make", [each[0] for each in REFUSED.values()], ids=REFUSED)
def test_what_cannot_be_stacked_is_named(make: Callable[[], nn.Module], request: pytest.FixtureRequest) -> None:
    (_, reason) = REFUSED[request.node.callspec.id]
    assert reason in why_not_stackable(make())


def test_reference_models_without_dropout_can_be_stacked() -> None:
    assert [why_not_stackable(model_of(name)) for name in (*SHAPES, "normed")] == [""] * 4
