import pytest
import torch
from torch import nn

from fedkd.errors import StateError
from fedkd.models.live import Live


def test_hooks_of_the_module_itself_stay_and_all_later_ones_go() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    called: list[str] = []
    module.register_forward_hook(lambda *_: called.append("own"))
    live = Live(module)
    module[0].register_forward_pre_hook(lambda *_: called.append("pre"))
    module[1].register_forward_hook(lambda *_, **__: called.append("with arguments"), with_kwargs=True)
    module[1].register_full_backward_hook(lambda *_: called.append("backward"))
    module[1].weight.register_hook(lambda grad: called.append("gradient"))
    module[1].weight.register_post_accumulate_grad_hook(lambda parameter: called.append("after"))
    live.reset()(torch.ones(1, 2)).sum().backward()
    assert called == ["own"]


def test_what_was_built_frozen_stays_frozen() -> None:
    module = nn.Linear(2, 2)
    module.bias.requires_grad_(False)
    live = Live(module)
    module.requires_grad_(False)
    live.reset()
    assert (module.weight.requires_grad, module.bias.requires_grad) == (True, False)
    live.freeze()
    assert not module.weight.requires_grad
    assert not module.training
    assert live.reset().training


def test_a_module_that_lost_a_tensor_is_no_longer_intact() -> None:
    norm = nn.BatchNorm1d(2)
    live = Live(norm)
    assert live.is_intact
    norm.running_mean = None
    assert not live.is_intact


def test_a_module_without_tensors_is_filled_with_none() -> None:
    Live(nn.Identity()).fill({}, strict=True)
    with pytest.raises(StateError):
        Live(nn.Identity()).fill({"weight": torch.zeros(1)}, strict=True)
