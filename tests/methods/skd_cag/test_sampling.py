import torch
from torch import Tensor, nn

from fedkd.methods.skd_cag.sampling import ddim_sample, noise_schedule, text_part
from tests.methods.skd_cag.scenes import config, generator, tiny_denoiser


class _Oracle(nn.Module):
    """Knows the image and says the noise that is in x."""

    def __init__(self, image: Tensor, levels: Tensor) -> None:
        super().__init__()
        self.image, self.levels = image, levels

    def forward(self, x: Tensor, t: Tensor, prompt: Tensor) -> Tensor:
        kept = self.levels[t][:, None, None, None]
        return (x - kept.sqrt() * self.image) / (1 - kept).sqrt()


def test_sampling_with_the_true_noise_ends_at_the_image() -> None:
    schedule = noise_schedule(config())
    image = torch.rand(3, 1, 8, 8, generator=generator()) * 1.8 - 0.9
    noise = torch.randn(3, 1, 8, 8, generator=generator(1))
    oracle = _Oracle(image, schedule.alphas_cumprod)
    sampled = ddim_sample(oracle, torch.zeros(3, 6, dtype=torch.long), noise, schedule=schedule, steps=25)
    torch.testing.assert_close(sampled, image, atol=1e-4, rtol=0.0)
    assert schedule.num_inference_steps is None


def test_the_text_encoder_is_found_by_its_name() -> None:
    model = tiny_denoiser()
    assert text_part(model) is model.get_submodule("text_encoder")
    assert text_part(nn.Linear(2, 2)) is None
