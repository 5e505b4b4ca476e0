import dataclasses

import pytest

from fedkd.errors import ConfigError
from fedkd.methods.adaspec.config import AdaSpecConfig


def test_defaults_are_the_authors() -> None:
    config = AdaSpecConfig()
    assert (config.keep_share, config.gamma, config.target_epochs) == (0.4, 4, 3)
    assert (config.select, config.selection_scope, config.budget_match) == ("top", "batch", "steps")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("keep_share", 0.0),
        ("keep_share", 1.5),
        ("select", "middle"),
        ("selection_scope", "token"),
        ("loss_norm", "sum"),
        ("budget_match", "tokens"),
        ("order", "at_once"),
        ("speaks", "reference"),
        ("gamma", 0),
        ("top", -1),
        ("prompt_tokens", 0),
        ("target_epochs", -1),
        ("target_lr_scale", 0.0),
        ("reference_rounds", -1),
        ("refresh_reference_every", -1),
        ("max_new_tokens", 0),
        ("count_prompts", -1),
    ],
)
def test_values_out_of_range_are_refused_by_name(name: str, value: float | str) -> None:
    with pytest.raises(ConfigError) as caught:
        AdaSpecConfig(**{name: value})
    assert caught.value.key == name


def test_it_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        AdaSpecConfig().keep_share = 0.5  # type: ignore[misc]
