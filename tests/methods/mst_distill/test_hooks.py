from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedkd.errors import ConfigError
from fedkd.methods.mst_distill.hooks import Plug, feature_shapes, plugged, specialised
from fedkd.methods.mst_distill.networks import (
    MaskNet1d,
    MaskNet2d,
    MaskNetTokens,
    PairedTeacher,
    UnimodalNet,
)


class Constant(nn.Module):
    """The same mask for every sample."""

    def __init__(self, value: float | list[float]) -> None:
        super().__init__()
        self.value = torch.tensor(value)

    def forward(self, h: Tensor) -> Tensor:
        return self.value.expand(h.shape[:2])


class Broken(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        raise RuntimeError("no mask today")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def teacher() -> PairedTeacher:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PairedTeacher(nn.Linear(8, 6), nn.Linear(5, 6), 12, num_outputs=3, hidden=(6,)).eval()


PAIR = (noise(4, 8), noise(4, 5, seed=1))


def hooks_of(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


@pytest.mark.parametrize("layer", ["fusion", "fc1", "encoder_a", "fc2"])
def test_a_mask_of_ones_is_the_unmasked_teacher(teacher: PairedTeacher, layer: str) -> None:
    before = teacher(*PAIR)
    with plugged(teacher, [Plug(layer, Constant(1.0))]):
        assert torch.equal(teacher(*PAIR), before)


def test_a_mask_multiplies_what_its_layer_puts_out(teacher: PairedTeacher) -> None:
    with plugged(teacher, [Plug("fc1", Constant([1.0, 0.0, 0.5, 0.0, 2.0, 1.0]))]):
        masked = teacher(*PAIR)
    hidden = teacher.fc1(torch.cat([teacher.encoder_a(PAIR[0]), teacher.encoder_b(PAIR[1])], dim=1))
    expected = teacher.fc2((hidden * torch.tensor([1.0, 0.0, 0.5, 0.0, 2.0, 1.0])).relu())
    torch.testing.assert_close(masked, expected)


def test_outputs_are_as_before_once_the_mask_is_out(teacher: PairedTeacher) -> None:
    before = teacher(*PAIR)
    with plugged(teacher, [Plug("fusion", MaskNet1d(12, 6, 3)), Plug("fc1", MaskNet1d(6, 3, 3))]):
        assert hooks_of(teacher) == 2
        assert not torch.equal(teacher(*PAIR), before)
    assert hooks_of(teacher) == 0
    assert torch.equal(teacher(*PAIR), before)


@pytest.mark.parametrize("mask", [Broken(), MaskNet1d(7, 3, 3)])
def test_an_error_leaves_no_mask_behind(teacher: PairedTeacher, mask: nn.Module) -> None:
    before = teacher(*PAIR)
    with pytest.raises(RuntimeError), plugged(teacher, [Plug("fusion", Constant(0.5)), Plug("fc1", mask)]):
        teacher(*PAIR)
    with pytest.raises(RuntimeError):
        specialised(teacher, [Plug("fusion", Constant(0.5)), Plug("fc1", mask)], PAIR, hooks="cumulative")
    assert hooks_of(teacher) == 0
    assert torch.equal(teacher(*PAIR), before)


def test_a_second_layer_that_is_not_there_leaves_no_mask_behind(teacher: PairedTeacher) -> None:
    with pytest.raises(ConfigError, match=r"no layer 'fusoin'; did you mean 'fusion'\? Its layers are "):
        specialised(teacher, [Plug("fc1", Constant(0.5)), Plug("fusoin", Constant(0.5))], PAIR, hooks="cumulative")
    with pytest.raises(ConfigError, match="no layer ''"), plugged(teacher, [Plug("", Constant(0.5))]):
        pass
    assert hooks_of(teacher) == 0


@pytest.mark.parametrize("hooks", ["single", "cumulative"])
def test_later_teachers_keep_earlier_masks_only_where_asked(teacher: PairedTeacher, hooks: str) -> None:
    plugs = [Plug("fusion", MaskNet1d(12, 6, 3)), Plug("fc1", MaskNet1d(6, 3, 3))]
    first, second = specialised(teacher, plugs, PAIR, hooks=hooks)
    with plugged(teacher, plugs[:1]):
        assert torch.equal(first, teacher(*PAIR))
    with plugged(teacher, plugs if hooks == "cumulative" else plugs[1:]):
        assert torch.equal(second, teacher(*PAIR))
    assert hooks_of(teacher) == 0


def test_no_plugs_are_refused(teacher: PairedTeacher) -> None:
    with pytest.raises(ConfigError, match="no layers to mask"):
        specialised(teacher, [], PAIR)


def test_maps_are_masked_by_channel_and_single_pixels_stay_maps() -> None:
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.Conv2d(6, 6, 4), nn.Flatten(), nn.Linear(6, 2)).eval()
    x = noise(3, 1, 6, 6)
    assert feature_shapes(net, ["0", "1"], (x,)) == [(6, 4, 4), (6, 1, 1)]
    channels = [0.0, 1.0, 1.0, 0.5, 0.0, 1.0]
    with plugged(net, [Plug("0", Constant(channels))]):
        masked = net(x)
    expected = net[1:](net[0](x) * torch.tensor(channels)[None, :, None, None])
    torch.testing.assert_close(masked, expected)
    for layer, mask in (("0", MaskNet2d(6, 3, 3).eval()), ("1", MaskNet1d(6, 3, 3))):
        with plugged(net, [Plug(layer, mask)]):
            assert net(x).shape == (3, 2)


class Tupled(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, str]:
        return 2 * x, "attention weights"


class Recorded(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return {"hidden": x}


class Around(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.idle = layer, nn.Identity()

    def forward(self, x: Tensor) -> Any:
        return self.layer(x)


def test_of_a_tuple_the_first_part_is_masked() -> None:
    net = Around(Tupled())
    with plugged(net, [Plug("layer", Constant(0.25))]):
        found, rest = net(torch.ones(2, 3))
    assert torch.equal(found, torch.full((2, 3), 0.5))
    assert rest == "attention weights"


def test_other_outputs_are_refused() -> None:
    net = Around(Recorded())
    with pytest.raises(ConfigError, match="'layer' puts out a dict"), plugged(net, [Plug("layer", Constant(0.5))]):
        net(torch.ones(2, 3))
    with pytest.raises(ConfigError, match="'layer' puts out a dict"):
        feature_shapes(net, ["layer"], (torch.ones(2, 3),))
    assert hooks_of(net) == 0


def test_a_layer_that_is_never_called_is_refused() -> None:
    with pytest.raises(ConfigError, match="'idle' of Around is never called"):
        feature_shapes(Around(Tupled()), ["layer", "idle"], (torch.ones(2, 3),))


def test_looking_at_shapes_changes_nothing(teacher: PairedTeacher) -> None:
    norm = nn.BatchNorm1d(8)
    net = nn.Sequential(norm, nn.Linear(8, 6), nn.Linear(6, 2).eval())
    net[2].eval()
    assert feature_shapes(net, ["1"], (PAIR[0],)) == [(6,)]
    assert (net.training, norm.training, net[2].training) == (True, True, False)
    assert norm.running_mean is not None
    assert norm.running_mean.abs().sum() == 0
    assert hooks_of(net) == 0


class Pooled(nn.Module):
    """The pooled output of a bare encoder of transformers alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).pooler_output


def test_masks_reach_into_transformers() -> None:
    transformers = pytest.importorskip("transformers", reason="models of transformers are not a dependency")
    size = {"hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {**size, "image_size": 8, "patch_size": 4}
    words = {**size, "vocab_size": 20, "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 1}
    clip = Pooled(transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**vision)))
    text = Pooled(transformers.CLIPTextModel(transformers.CLIPTextConfig(**words)))
    vit = Pooled(transformers.ViTModel(transformers.ViTConfig(**vision)))
    image, tokens = noise(3, 3, 8, 8), torch.tensor([[0, 5, 6, 1], [0, 7, 1, 1], [0, 9, 8, 1]])
    both = PairedTeacher(clip, text, 24, num_outputs=4, hidden=(6,)).eval()
    one = UnimodalNet(12, num_outputs=4, hidden=(6,), encoder=vit).eval()

    vectors = [name for name, _ in clip.named_modules() if name.endswith("post_layernorm")]
    layers = ["fusion", f"encoder_a.{vectors[0]}"]
    assert feature_shapes(both, layers, (image, tokens)) == [(24,), (12,)]
    before = both(image, tokens)
    plugs = [Plug(layers[0], MaskNet1d(24, 12, 3)), Plug(layers[1], MaskNet1d(12, 6, 3))]
    first, second = specialised(both, plugs, (image, tokens))
    assert first.shape == second.shape == (3, 4)
    assert not torch.allclose(first, before)
    assert not torch.allclose(second, before)
    assert torch.equal(both(image, tokens), before)

    # A layer of the body puts out tokens: the mask is the same for all of them, and its gradient arrives.
    (body,) = [name for name, _ in one.named_modules() if name.endswith("layernorm")]
    (shape,) = feature_shapes(one, [body], (image,))
    assert shape == (5, 12)
    mask = MaskNetTokens(12, 6, 3)
    specialised(one, [Plug(body, mask)], (image,)).sum().backward()
    assert all(parameter.grad is not None for parameter in mask.parameters())
