from typing import Any

import pytest

from fedkd.errors import ConfigError
from fedkd.methods.skd_cag.config import SKDCAGConfig


def test_defaults_are_the_sources_noise_variant() -> None:
    config = SKDCAGConfig()
    assert (config.target, config.attention_weight, config.resolution) == ("noise", 0.5, 128)
    assert (config.lr, config.beta1, config.beta2, config.weight_decay) == (1e-6, 0.9, 0.999, 0.01)
    assert (config.batch, config.epochs, config.keep_weight) == (1, 100, 0.0)
    assert (config.latents, config.compat, config.ema_decay) == ("noise", "paper", 0.9999)
    assert config.weighs_timesteps


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("target", "white"),
        ("attention_weight", 1.1),
        ("keep_weight", -1.0),
        ("fed_weight", -0.1),
        ("fed_batch", 0),
        ("resolution", -1),
        ("timestep_weighting", "yes"),
        ("latents", "images"),
        ("trajectory_steps", 0),
        ("compat", "exact"),
        ("ema_decay", 1.0),
        ("lr", 0.0),
        ("beta1", 1.0),
        ("weight_decay", -1e-3),
        ("batch", 0),
        ("epochs", 0),
    ],
)
def test_values_out_of_range_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as refusal:
        SKDCAGConfig(**{key: value})
    assert refusal.value.key == key
