from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fedkd.errors import ConfigError
from fedkd.functional.skd_cag import min_max, summed_maps
from fedkd.methods.skd_cag.attention import AttentionTap, word_layers
from fedkd.methods.skd_cag.sampling import predict_noise
from fedkd.models.tiny_diffusion import CrossAttention
from tests.methods.skd_cag.scenes import frozen_copy, tiny_denoiser, tiny_unet

GRIDS = {tiny_denoiser: [(4, 4), (4, 4)], tiny_unet: [(8, 8), (4, 4), (8, 8), (8, 8)]}
NETWORKS = [tiny_denoiser, tiny_unet]
Build = Callable[[], nn.Module]


def inputs(*, side: tuple[int, int] = (8, 8), seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Images, timesteps and token ids (3, 6)."""
    generator = torch.Generator().manual_seed(seed)
    x, ids = torch.randn(3, 1, *side, generator=generator), torch.randint(16, (3, 6), generator=generator)
    return x, torch.tensor([1, 50, 99]), ids


@pytest.mark.parametrize("build", NETWORKS)
def test_every_layer_shows_probabilities_over_tokens(build: Build) -> None:
    network = build()
    tap = AttentionTap(network)
    with tap.recording() as recorded:
        predict_noise(network, *inputs())
    assert [layer.shape for layer in recorded.values()] == [(3, 2, 6, *grid) for grid in GRIDS[build]]
    for layer in recorded.values():
        torch.testing.assert_close(layer.sum(2), torch.ones_like(layer[:, :, 0]))
        assert layer.grad_fn is not None


@pytest.mark.parametrize("build", NETWORKS)
def test_a_tapped_network_computes_the_same_and_is_itself_again_when_closed(build: Build) -> None:
    network = build()
    before = predict_noise(network, *inputs())
    names = list(network.state_dict())
    tap = AttentionTap(network)
    torch.testing.assert_close(predict_noise(network, *inputs()), before)
    assert list(network.state_dict()) == names
    tap.close()
    with tap.recording() as recorded:
        assert predict_noise(network, *inputs()).equal(before)
    assert recorded == {}


@pytest.mark.parametrize("build", NETWORKS)
def test_queries_and_keys_get_gradients_through_the_maps(build: Build) -> None:
    network = build()
    tap = AttentionTap(network)
    with tap.recording() as recorded:
        predict_noise(network, *inputs())
    maps = min_max(summed_maps(word_layers(recorded, torch.tensor([0, 2]), torch.tensor([1, 2]))))
    maps.square().mean().backward()
    gradients = {
        name: parameter.grad
        for name, parameter in network.named_parameters()
        if name.endswith(("to_q.weight", "to_k.weight")) and "attn1" not in name
    }
    assert len(gradients) == 2 * len(GRIDS[build])
    for name, gradient in gradients.items():
        assert gradient is not None, name
        assert gradient.abs().max() > 0, name


@pytest.mark.parametrize("build", NETWORKS)
def test_two_networks_have_captures_of_their_own(build: Build) -> None:
    student = build()
    teacher = frozen_copy(student)
    taps = AttentionTap(teacher), AttentionTap(student)
    x, timesteps, text = inputs()
    with taps[0].recording() as of_teacher, taps[1].recording() as of_student:
        predict_noise(teacher, x, timesteps, text)
        assert of_student == {}
        predict_noise(student, x, timesteps, text.flip(0))
    assert list(of_teacher) == list(of_student)
    for name in of_teacher:
        assert (of_teacher[name] - of_student[name]).abs().max() > 1e-4
        assert not of_teacher[name].requires_grad
        assert of_student[name].requires_grad
    with taps[0].recording() as of_teacher, taps[1].recording() as of_student:
        predict_noise(teacher, x, timesteps, text)
        predict_noise(student, x, timesteps, text)
    for name in of_teacher:
        torch.testing.assert_close(of_teacher[name], of_student[name])


def test_maps_lie_on_the_image_also_where_it_is_not_square() -> None:
    network = tiny_unet()
    tap = AttentionTap(network)
    with tap.recording() as recorded:
        predict_noise(network, *inputs(side=(4, 12)))
    assert [layer.shape[-2:] for layer in recorded.values()] == [(4, 12), (2, 6), (4, 12), (4, 12)]


def test_rows_of_the_grid_are_rows_of_the_image() -> None:
    layer = CrossAttention(4, text_width=4, heads=1)
    with torch.no_grad():
        for part in (layer.to_q, layer.to_k):
            part.weight.copy_(torch.eye(4))
    x = torch.zeros(1, 6, 4)
    x[0, 4, 0] = 50.0  # position (1, 1) of a 2 x 3 image asks for token 1 alone
    text = torch.eye(4)[None, [1, 0]]
    seen: list[Tensor] = []
    layer.record = lambda probs, grid: seen.append(probs.transpose(-1, -2).reshape(2, *grid))
    layer(x, text, (2, 3))
    assert seen[0][1, 1, 1].item() == pytest.approx(1.0, abs=1e-6)
    assert seen[0][1].flatten()[[0, 1, 2, 3, 5]].tolist() == pytest.approx([0.5] * 5)


def test_our_attention_equals_that_of_torch() -> None:
    torch_layer = nn.MultiheadAttention(8, 2, kdim=6, vdim=6, batch_first=True)
    ours = CrossAttention(8, text_width=6, heads=2)
    with torch.no_grad():
        ours.to_q.weight.copy_(torch_layer.q_proj_weight)
        ours.to_k.weight.copy_(torch_layer.k_proj_weight)
        ours.to_v.weight.copy_(torch_layer.v_proj_weight)
        ours.to_out.weight.copy_(torch_layer.out_proj.weight)
        ours.to_out.bias.copy_(torch_layer.out_proj.bias)
    generator = torch.Generator().manual_seed(3)
    x, text = torch.randn(2, 4, 8, generator=generator), torch.randn(2, 5, 6, generator=generator)
    expected, probs = torch_layer(x, text, text, average_attn_weights=False)
    seen: list[Tensor] = []
    ours.record = lambda probs, grid: seen.append(probs)
    torch.testing.assert_close(ours(x, text, (2, 2)), expected)
    torch.testing.assert_close(seen[0], probs)


def test_gradient_checkpointing_leaves_maps_and_gradients_as_they_are() -> None:
    gradients = []
    for checkpoints in (False, True):
        network = tiny_unet().train()
        if checkpoints:
            network.get_submodule("denoiser").enable_gradient_checkpointing()
        tap = AttentionTap(network)
        with tap.recording() as recorded:
            noise = predict_noise(network, *inputs())
        maps = min_max(summed_maps(word_layers(recorded, torch.tensor([0, 1]), torch.tensor([1, 3]))))
        assert len(recorded) == 4
        (maps.square().mean() + noise.square().mean()).backward()
        assert len(recorded) == 4
        gradients.append({name: parameter.grad for name, parameter in network.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-4)


def test_two_passes_in_one_recording_are_refused() -> None:
    network = tiny_denoiser()
    tap = AttentionTap(network)
    with tap.recording():
        predict_noise(network, *inputs())
        with pytest.raises(RuntimeError, match="two passes"):
            predict_noise(network, *inputs())
        with pytest.raises(RuntimeError, match="records already"), tap.recording():
            pass


def test_a_network_without_cross_attention_is_refused() -> None:
    with pytest.raises(ConfigError, match="attention_weight = 0"):
        AttentionTap(nn.Linear(2, 2))


def test_an_attention_that_cannot_be_replaced_is_refused() -> None:
    from diffusers.models.attention_processor import SlicedAttnProcessor

    network = tiny_unet()
    network.get_submodule("denoiser").set_attn_processor(SlicedAttnProcessor(1))
    with pytest.raises(ConfigError, match="SlicedAttnProcessor"):
        AttentionTap(network)


def test_words_are_picked_by_sample_and_position() -> None:
    layer = torch.arange(2 * 3 * 4 * 2 * 2).reshape(2, 3, 4, 2, 2)
    (picked,) = word_layers({"only": layer}, torch.tensor([0, 1, 1]), torch.tensor([2, 0, 3]))
    assert picked.shape == (3, 3, 2, 2)
    assert picked[:, 1].equal(layer[1, :, 0])
    assert picked[:, 2].equal(layer[1, :, 3])
