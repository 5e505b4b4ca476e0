import json
from dataclasses import replace

import pytest
import torch

from fedkd.errors import ConfigError
from fedkd.models.build import build_model
from fedkd.models.check import check_model
from fedkd.models.config import ModelConfig
from fedkd.models.spec import ModelSpec
from fedkd.models.tiny_diffusion import TinyDenoiser, TinyTextEncoder

SPEC = ModelSpec(
    input_shape=(1, 8, 8), num_outputs=64, head="diffusion", more={"t": ((), "int64"), "prompt": ((6,), "int32")}
)


def test_timesteps_and_text_matter_to_the_denoiser() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = TinyDenoiser()
        x, text = torch.randn(2, 1, 8, 8), torch.randn(2, 6, 32)
    noise = network(x, torch.tensor([3, 90]), text)[0]
    assert noise.shape == x.shape
    assert not noise.equal(network(x, torch.tensor([4, 90]), text)[0])
    assert not noise.equal(network(x, torch.tensor([3, 90]), text.flip(0))[0])
    single = network(x, torch.tensor(3), text)[0]  # one timestep for all
    torch.testing.assert_close(single[0], noise[0])


def test_the_text_encoder_tells_words_and_places_apart() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = TinyTextEncoder()
    states = encoder(torch.tensor([[0, 2, 3, 1, 1, 1], [0, 3, 2, 1, 1, 1]]))[0]
    assert states.shape == (2, 6, 32)
    assert (states[0] - states[1]).abs().max() > 1e-3


@pytest.mark.parametrize("options", [{}, {"vocabulary": 40, "width": 16, "blocks": 1, "heads": 4}])
def test_the_model_follows_the_data(options: dict[str, int]) -> None:
    spec = replace(SPEC, input_shape=(3, 16, 16), num_outputs=768)
    model = build_model("tiny_diffusion", ModelConfig(name="tiny_diffusion", options=json.dumps(options)), spec)
    check_model(model, spec, name="tiny_diffusion")
    assert {name for name, _ in model.named_children()} == {"denoiser", "text_encoder"}


@pytest.mark.parametrize(
    ("options", "spec", "told"),
    [
        ({"blocks": 0}, SPEC, "blocks"),
        ({"heads": 3}, SPEC, "does not divide"),
        ({"layers": 2}, SPEC, "does not know"),
        ({}, replace(SPEC, more={"t": ((), "int64")}), "no prompts"),
        ({}, replace(SPEC, input_shape=(1, 8, 4)), "square latents"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, int], spec: ModelSpec, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_model("tiny_diffusion", ModelConfig(name="tiny_diffusion", options=json.dumps(options)), spec)
