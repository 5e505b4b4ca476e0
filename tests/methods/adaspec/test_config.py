import dataclasses

import pytest

from fedkd.errors import ConfigError
from fedkd.methods.adaspec.config import AdaSpecConfig


def test_defaults_are_the_authors() -> None:
    config = AdaSpecConfig()
    assert (config.keep_share, config.gamma, config.weight_decay, config.lr) == (0.4, 4, 0.1, 3e-4)
    assert (config.batch_size, config.target_epochs, config.reference_epochs, config.draft_epochs) == (16, 3, 3, 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("keep_share", 0.0),
        ("keep_share", 1.5),
        ("select", "middle"),
        ("selection_scope", "token"),
        ("loss_norm", "sum"),
        ("budget_match", "tokens"),
        ("gamma", 0),
        ("batch_size", 0),
        ("lr", 0.0),
        ("target_lr", -1.0),
        ("draft_steps", -1),
        ("reference_epochs", -0.5),
        ("refresh_reference_every", -1),
        ("max_grad_norm", -1.0),
        ("max_new_tokens", 0),
    ],
)
def test_values_out_of_range_are_refused_by_name(name: str, value: float | str) -> None:
    with pytest.raises(ConfigError) as caught:
        AdaSpecConfig(**{name: value})
    assert caught.value.key == name


def test_it_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        AdaSpecConfig().keep_share = 0.5  # type: ignore[misc]
