import pytest
import torch

from fedkd.errors import ConfigError
from fedkd.models.check import check_model
from fedkd.models.config import ModelConfig
from fedkd.models.seg_net import build_seg_net
from fedkd.models.spec import ModelSpec


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 16, 24), (4, 7, 9)])
@pytest.mark.parametrize("hidden", [1, 6, 8])
def test_logits_are_at_stride_two(shape: tuple[int, ...], hidden: int) -> None:
    spec = ModelSpec(input_shape=shape, num_outputs=3, head="segmentation")
    model = build_seg_net(ModelConfig(hidden=hidden), spec)
    check_model(model, spec, name="seg_net")
    assert model(torch.zeros(2, *shape)).shape == (2, 3, (shape[1] + 1) // 2, (shape[2] + 1) // 2)


def test_stages_have_their_sizes() -> None:
    model = build_seg_net(ModelConfig(hidden=4), ModelSpec(input_shape=(3, 16, 16), num_outputs=3, head="segmentation"))
    seen = {}
    for name in ("stem", "down", "up"):
        model.get_submodule(name).register_forward_hook(
            lambda *io, name=name: seen.update({name: tuple(io[2].shape[1:])})
        )
    model(torch.zeros(1, 3, 16, 16))
    assert seen == {"stem": (4, 8, 8), "down": (8, 4, 4), "up": (4, 8, 8)}


def test_it_learns_to_find_the_bright_side() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_seg_net(ModelConfig(hidden=4), ModelSpec(input_shape=(1, 8, 8), num_outputs=2))
        x = torch.rand(16, 1, 8, 8)
    x[:, :, :, 4:] += 2
    y = (x[:, 0, ::2, ::2] > 1.5).long()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(30):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert (model(x).argmax(1) == y).float().mean() > 0.95


def test_data_that_are_no_images_are_refused() -> None:
    with pytest.raises(ConfigError, match="'seg_net', which takes images"):
        build_seg_net(ModelConfig(), ModelSpec(input_shape=(8,), num_outputs=2, head="segmentation"))
