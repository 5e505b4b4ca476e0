from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fedkd.errors import ConfigError
from fedkd.methods.mst_distill.config import MSTDistillConfig
from fedkd.methods.mst_distill.hooks import plugged
from fedkd.methods.mst_distill.mixture import Networks, Specialists, build_specialists
from fedkd.methods.mst_distill.networks import MaskNet2d, PairedTeacher, UnimodalNet
from fedkd.models.frozen import frozen


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fresh(name: str, build: Callable[[], nn.Module]) -> nn.Module:
    return build()


A, B = noise(5, 8), noise(5, 6, seed=1)


def mixed(nets: Networks, **options: Any) -> Specialists:
    return build_specialists(nets, MSTDistillConfig(**options), A, B, make=fresh)


def networks() -> Networks:
    teacher = PairedTeacher(nn.Linear(8, 6), nn.Linear(6, 6), 12, num_outputs=3, hidden=(6,))
    return Networks(teacher, UnimodalNet(6, num_outputs=3, hidden=(9,)), UnimodalNet(8, num_outputs=3, hidden=(9,)))


def test_masks_fit_the_layers_that_the_configuration_names() -> None:
    config = MSTDistillConfig(teacher_layers="fusion,fc1", auxiliary_layers="fc1", heads=3, hidden_factor=2)
    mixture = build_specialists(networks(), config, A, B, make=fresh)
    assert len(mixture) == 3
    assert [mask.features for mask in mixture.masks] == [12, 6, 9]
    assert [mask.hidden for mask in mixture.masks] == [6, 3, 3]
    assert mixture.logits(A, B).shape == (3, 5, 3)


def test_teachers_come_in_order_first_of_t_then_of_a() -> None:
    nets = networks()
    mixture = mixed(nets, teacher_layers="fusion", auxiliary_layers="fc1")
    first, second = mixture.logits(A, B)
    with plugged(nets.teacher, mixture.teacher_plugs):
        assert torch.equal(first, nets.teacher(A, B))
    with plugged(nets.auxiliary, mixture.auxiliary_plugs):
        assert torch.equal(second, nets.auxiliary(B))


def test_alone_means_alone() -> None:
    nets = networks()
    config = MSTDistillConfig(teacher_layers="fusion,fc1", auxiliary_layers="fc1", hooks="cumulative")
    mixture = build_specialists(nets, config, A, B, make=fresh)
    together = mixture.logits(A, B)
    assert torch.equal(mixture.alone(0, A, B), together[0])
    assert not torch.allclose(mixture.alone(1, A, B), together[1])
    assert torch.equal(mixture.alone(2, A, B), together[2])
    single = Specialists(nets.teacher, nets.auxiliary, mixture.teacher_plugs, mixture.auxiliary_plugs)
    assert torch.equal(mixture.alone(1, A, B), single.logits(A, B)[1])


def test_a_layer_too_narrow_or_unknown_is_refused() -> None:
    with pytest.raises(ConfigError, match="6 features is too narrow"):
        mixed(networks(), teacher_layers="fc1", auxiliary_layers="fc1", heads=4)
    with pytest.raises(ConfigError, match=r"UnimodalNet has no layer 'fusion'"):
        mixed(networks(), teacher_layers="fc1", auxiliary_layers="fusion")


def test_frozen_modules_thaw_as_they_were() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    net[0].weight.requires_grad_(False)
    net[1].eval()

    def fails_inside() -> None:
        with frozen(net, MaskNet2d(6, 3, 3)):
            assert not any(parameter.requires_grad for parameter in net.parameters())
            assert not net[1].training
            net[1](torch.zeros(2))  # no batch

    with pytest.raises(ValueError, match="expected"):
        fails_inside()
    assert [parameter.requires_grad for parameter in net.parameters()] == [False, True, True, True]
    assert (net.training, net[0].training, net[1].training) == (True, True, False)


def test_a_frozen_network_passes_the_gradient_to_a_mask_inside_it() -> None:
    nets = networks()
    mixture = mixed(nets, teacher_layers="fusion", auxiliary_layers="fc1")
    with frozen(nets.teacher, nets.auxiliary):
        mixture.logits(A, B).sum().backward()
    assert all(parameter.grad is None for parameter in nets.teacher.parameters())
    assert all(parameter.grad is not None for mask in mixture.masks for parameter in mask.parameters())


def test_without_masks_each_layer_names_a_teacher_that_is_as_it_was() -> None:
    nets = networks()
    mixture = mixed(nets, teacher_layers="fusion,fc1", auxiliary_layers="fc1", masks=False)
    first, second, third = mixture.logits(A, B)
    assert torch.equal(first, nets.teacher(A, B))
    assert torch.equal(second, first)
    assert torch.equal(third, nets.auxiliary(B))
