import torch
from torch import Tensor, nn

from fedkd.methods.skd_cag.networks import (
    TinyTextEncoder,
    ddim_sample,
    encode_text,
    frozen_copy,
    predict_noise,
    tiny_schedule,
)
from tests.methods.skd_cag.scenes import generator, tiny_denoiser


class _Oracle(nn.Module):
    """Knows the image and says the noise that is in x."""

    def __init__(self, image: Tensor, levels: Tensor) -> None:
        super().__init__()
        self.image, self.levels = image, levels

    def forward(self, x: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, return_dict: bool) -> tuple[Tensor]:
        kept = self.levels[timestep]
        return ((x - kept.sqrt() * self.image) / (1 - kept).sqrt(),)


def test_sampling_with_the_true_noise_ends_at_the_image() -> None:
    schedule = tiny_schedule()
    image = torch.rand(3, 1, 8, 8, generator=generator()) * 1.8 - 0.9
    noise = torch.randn(3, 1, 8, 8, generator=generator(1))
    oracle = _Oracle(image, schedule.alphas_cumprod)
    sampled = ddim_sample(oracle, torch.zeros(3, 6, 32), noise, schedule=schedule, steps=25)
    torch.testing.assert_close(sampled, image, atol=1e-4, rtol=0.0)
    assert schedule.num_inference_steps is None


def test_timesteps_and_text_matter_to_the_tiny_denoiser() -> None:
    network = tiny_denoiser()
    x, text = torch.randn(2, 1, 8, 8, generator=generator()), torch.randn(2, 6, 32, generator=generator(1))
    noise = predict_noise(network, x, torch.tensor([3, 90]), text)
    assert noise.shape == x.shape
    assert not noise.equal(predict_noise(network, x, torch.tensor([4, 90]), text))
    assert not noise.equal(predict_noise(network, x, torch.tensor([3, 90]), text.flip(0)))
    single = predict_noise(network, x, torch.tensor(3), text)  # one timestep for all, as a sampler gives it
    torch.testing.assert_close(single[0], noise[0])


def test_the_tiny_text_encoder_tells_words_and_places_apart() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = TinyTextEncoder()
    states = encode_text(encoder, torch.tensor([[0, 2, 3, 1, 1, 1], [0, 3, 2, 1, 1, 1]]))
    assert states.shape == (2, 6, 32)
    assert not states.requires_grad
    assert (states[0] - states[1]).abs().max() > 1e-3


def test_a_frozen_copy_shares_nothing() -> None:
    network = tiny_denoiser()
    frozen = frozen_copy(network)
    with torch.no_grad():
        next(network.parameters()).add_(1.0)
    assert not next(frozen.parameters()).equal(next(network.parameters()))
    assert not frozen.training
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())
