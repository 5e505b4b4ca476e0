from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedkd.models.config import ModelConfig
from fedkd.models.resnet import build_resnet8, build_resnet14, build_resnet20
from fedkd.models.spec import ModelSpec

Build = Callable[..., nn.Module]
EVERY = [(build_resnet8, 8, 1), (build_resnet14, 14, 2), (build_resnet20, 20, 3)]


def build(make: Build, shape: tuple[int, ...] = (3, 32, 32), dropout: float = 0.0) -> nn.Module:
    return make(ModelConfig(dropout=dropout), ModelSpec(input_shape=shape, num_outputs=10))


@pytest.mark.parametrize(("make", "layers", "blocks"), EVERY)
def test_the_name_counts_the_layers(make: Build, layers: int, blocks: int) -> None:
    modules = list(build(make).modules())
    convolutions = [layer for layer in modules if isinstance(layer, nn.Conv2d)]
    linear = [layer for layer in modules if isinstance(layer, nn.Linear)]
    spatial = [layer for layer in convolutions if layer.kernel_size == (3, 3)]
    assert len(spatial) + len(linear) == layers == 6 * blocks + 2
    assert len(convolutions) - len(spatial) == 2  # the shortcuts of the two strided blocks, not counted by He et al.


@pytest.mark.parametrize(("make", "layers", "blocks"), EVERY)
def test_parameters_by_hand(make: Build, layers: int, blocks: int) -> None:
    def block(inner: int, outer: int) -> int:
        shortcut = 0 if inner == outer else inner * outer
        return 9 * inner * outer + 9 * outer * outer + 4 * outer + shortcut  # two norms of a scale and a shift each

    expected = 9 * 3 * 16 + 2 * 16 + 65 * 10
    for inner, outer in ((16, 16), (16, 32), (32, 64)):
        expected += block(inner, outer) + (blocks - 1) * block(outer, outer)
    assert sum(parameter.numel() for parameter in build(make).parameters()) == expected


@pytest.mark.parametrize(("make", "layers", "blocks"), EVERY)
def test_norms_are_over_groups_never_over_the_batch(make: Build, layers: int, blocks: int) -> None:
    model = build(make)
    assert not any(isinstance(layer, _BatchNorm) for layer in model.modules())
    norms = [layer for layer in model.modules() if isinstance(layer, nn.GroupNorm)]
    assert len(norms) == layers - 1  # one for each counted convolution
    assert list(model.buffers()) == []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = torch.randn(3, 3, 32, 32)
    model.train()
    with torch.no_grad():
        torch.testing.assert_close(model(x)[:1], model(x[:1]), atol=1e-4, rtol=1e-4)  # a sample is judged alone


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (1, 8, 8)])
@pytest.mark.parametrize(("make", "layers", "blocks"), EVERY)
def test_outputs(make: Build, layers: int, blocks: int, shape: tuple[int, ...]) -> None:
    with torch.no_grad():
        assert build(make, shape)(torch.zeros(2, *shape)).shape == (2, 10)


def test_stages_halve_the_size_and_double_the_channels() -> None:
    model = build(build_resnet8)
    seen: list[tuple[int, ...]] = []
    x = torch.zeros(1, 3, 32, 32)
    with torch.no_grad():
        for layer in model.children():
            x = layer(x)
            seen.append(tuple(x.shape[1:]))
    assert list(dict.fromkeys(seen)) == [(16, 32, 32), (32, 16, 16), (64, 8, 8), (64, 1, 1), (64,), (10,)]


def test_dropout_is_before_the_last_layer() -> None:
    *_, dropout, last = build(build_resnet8, dropout=0.25).children()
    assert isinstance(dropout, nn.Dropout)
    assert dropout.p == 0.25
    assert isinstance(last, nn.Linear)
