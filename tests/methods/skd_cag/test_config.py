from typing import Any

import pytest

from fedkd.errors import ConfigError
from fedkd.methods.skd_cag.config import SKDCAGConfig


def test_defaults_are_the_sources_noise_variant() -> None:
    config = SKDCAGConfig()
    assert (config.target, config.attention_weight, config.resolution) == ("noise", 0.5, 128)
    assert (config.latents, config.compat, config.ema_decay, config.keep_weight) == ("noise", "paper", 0.9999, 0.0)
    assert (config.timesteps, config.beta_start, config.beta_end) == (1000, 0.00085, 0.012)  # Stable Diffusion 1.x
    assert config.weighs_timesteps


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("target", "white"),
        ("attention_weight", 1.1),
        ("keep_weight", -1.0),
        ("fed_weight", -0.1),
        ("resolution", -1),
        ("timestep_weighting", "yes"),
        ("latents", "images"),
        ("trajectory_steps", 0),
        ("compat", "exact"),
        ("ema_decay", 1.0),
        ("trigger", " "),
        ("trigger", "New Trigger"),
        ("eval_trigger", "6,-7"),
        ("lead_words", "8;9"),
        ("timesteps", 0),
        ("beta_start", 0.0),
        ("beta_end", 1.0),
        ("beta_schedule", "cosine"),
        ("home_steps", -1),
        ("home_batch", 0),
        ("home_lr", 0.0),
        ("eval_samples", 0),
    ],
)
def test_values_out_of_range_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as refusal:
        SKDCAGConfig(**{key: value})
    assert refusal.value.key == key


def test_more_sampling_steps_than_timesteps_are_refused() -> None:
    with pytest.raises(ConfigError, match="at most 10"):
        SKDCAGConfig(timesteps=10, trajectory_steps=25)


def test_random_words_need_words() -> None:
    with pytest.raises(ConfigError, match="name token ids") as refusal:
        SKDCAGConfig(target="random_words")
    assert refusal.value.key == "lead_words"


def test_words_are_words_where_there_is_a_tokenizer() -> None:
    config = SKDCAGConfig(trigger="New Trigger", tokenizer="folder", target="random_words")
    assert config.trigger == "New Trigger"
