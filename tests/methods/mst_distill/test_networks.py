from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from fedkd.errors import ConfigError
from fedkd.methods.mst_distill.networks import (
    GateNet,
    MaskNet1d,
    MaskNet2d,
    MaskNetTokens,
    PairedTeacher,
    UnimodalNet,
    build_mask,
    mask_parameters,
    mask_width,
)


@pytest.fixture(autouse=True)
def _own_random_state() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def size_of(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_golden_sizes() -> None:
    assert size_of(GateNet(10, 4)) == 304
    assert size_of(MaskNet1d(12, 6, 3)) == 1111


@pytest.mark.parametrize(("features", "hidden", "heads"), [(12, 6, 3), (24, 12, 3), (7, 2, 2)])
def test_the_size_is_known_before_a_mask_is_built(features: int, hidden: int, heads: int) -> None:
    assert mask_parameters(features, hidden) == size_of(MaskNet1d(features, hidden, heads))


def test_the_papers_largest_mask_has_106_million_parameters() -> None:
    hidden = mask_width(596, hidden_factor=2, heads=3)
    assert hidden == 297
    assert mask_parameters(596, hidden) == pytest.approx(106e6, rel=5e-3)


@pytest.mark.parametrize(
    ("kind", "shape", "expected"),
    [
        (MaskNet1d, (5, 12), (5, 12)),
        (MaskNet1d, (5, 12, 1, 1), (5, 12)),
        (MaskNet2d, (5, 12, 7, 4), (5, 12)),
        (MaskNet2d, (5, 12, 2, 1), (5, 12)),
        (MaskNetTokens, (5, 9, 12), (5, 1, 12)),
    ],
)
def test_masks_lie_between_zero_and_one(
    kind: type[nn.Module], shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    mask = kind(12, 6, 3).eval()
    found = mask(3 * noise(*shape))
    assert found.shape == expected
    assert (found > 0).all()
    assert (found < 1).all()
    assert found.std() > 0
    # A sample's mask depends on that sample alone.
    torch.testing.assert_close(mask(3 * noise(*shape)[:1]), found[:1])


def test_a_mask_is_the_attention_of_its_feature_tokens() -> None:
    mask, h = MaskNet1d(4, 6, 1), noise(3, 4)
    tokens = (h @ mask.embed.weight.T + mask.embed.bias).reshape(3, 4, 6)
    query, key, value = (
        tokens @ mask.attention.in_proj_weight[at : at + 6].T + mask.attention.in_proj_bias[at : at + 6]
        for at in (0, 6, 12)
    )
    mixed = (query @ key.transpose(1, 2) / 6**0.5).softmax(-1) @ value
    scores = mask.score(mask.attention.out_proj(mixed)).squeeze(-1)
    torch.testing.assert_close(mask(h), scores.sigmoid())


@pytest.mark.parametrize(
    ("shape", "kind"),
    [((12,), MaskNet1d), ((12, 1, 1), MaskNet1d), ((12, 1, 5), MaskNet2d), ((9, 12), MaskNetTokens)],
)
def test_the_layers_shape_decides_the_kind_of_mask(shape: tuple[int, ...], kind: type[nn.Module]) -> None:
    mask = build_mask(shape, hidden_factor=2, heads=3, limit=10_000)
    assert type(mask) is kind
    assert mask(noise(2, *shape)).numel() == 2 * 12


def test_a_mask_that_grows_too_large_is_refused_with_a_way_out() -> None:
    with pytest.raises(
        ConfigError, match=r"596 features .* 106,030,486 parameters.*20,000,000; hidden_factor 11"
    ) as caught:
        build_mask((596,), hidden_factor=2, heads=3, limit=20_000_000)
    factor = int(str(caught.value).partition("hidden_factor ")[2].split()[0])
    for tried, fits in ((factor - 1, False), (factor, True)):
        hidden = mask_width(596, hidden_factor=tried, heads=3)
        assert (mask_parameters(596, hidden) <= 20_000_000) is fits
    with pytest.raises(ConfigError, match=r"; name a narrower layer"):
        build_mask((596,), hidden_factor=2, heads=3, limit=1000)


def test_layers_that_no_mask_fits_are_refused() -> None:
    with pytest.raises(ConfigError, match="5 features is too narrow"):
        build_mask((5,), hidden_factor=2, heads=3, limit=10_000)
    with pytest.raises(ConfigError, match=r"\(3, 4, 5, 6\).* cannot be masked"):
        build_mask((3, 4, 5, 6), hidden_factor=2, heads=3, limit=10_000)


def test_the_gate_is_linear() -> None:
    gate, x = GateNet(10, 4), noise(3, 10)
    torch.testing.assert_close(gate(3 * x) - gate(0 * x), 3 * (gate(x) - gate(0 * x)))


def test_two_encoders_are_joined_before_the_head() -> None:
    model = PairedTeacher(nn.Linear(32, 24), nn.Linear(20, 24), 48, num_outputs=10)
    names = {name for name, _ in model.named_children()}
    assert names == {"encoder_a", "encoder_b", "fusion", "fc1", "fc2", "fc3"}
    a, b = noise(3, 32), noise(3, 20)
    first = model.fc1(torch.cat([model.encoder_a(a), model.encoder_b(b)], dim=1)).relu()
    torch.testing.assert_close(model(a, b), model.fc3(model.fc2(first).relu()))


def test_one_modality_is_an_mlp_or_an_encoder_with_a_head() -> None:
    assert size_of(UnimodalNet(32, num_outputs=10)) == (32 * 24 + 24) + (24 * 12 + 12) + (12 * 10 + 10)
    encoder = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = UnimodalNet(4, num_outputs=3, hidden=(), encoder=encoder)
    assert model(noise(2, 1, 5, 5)).shape == (2, 3)
    assert [name for name, _ in model.named_children()] == ["encoder", "fc1"]
