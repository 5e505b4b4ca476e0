from typing import Any

import pytest

from fedkd.errors import ConfigError
from fedkd.methods.wad.config import WADConfig


def test_the_defaults_are_those_of_the_paper() -> None:
    config = WADConfig()
    assert (config.temperature, config.alpha, config.split, config.views) == (0.5, 0.1, 5, 1)
    assert (config.weighting, config.unlabelled_weight) == ("margin", 1.0)
    assert (config.teacher_lr, config.teacher_momentum, config.teacher_weight_decay) == (0.1, 0.9, 1e-6)
    assert (config.teacher_batch, config.teacher_epochs, config.projection) == (32, 700, 128)
    assert (config.teacher_warmup_epochs, config.teacher_warmup_factor) == (10, 10.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0.0),
        ("view", "simclrr"),
        ("projection", 0),
        ("teacher_epochs", -1),
        ("teacher_batch", 1),
        ("teacher_optimizer", "lars"),
        ("teacher_lr", 0.0),
        ("teacher_momentum", 1.0),
        ("teacher_weight_decay", -1e-6),
        ("teacher_schedule", "step"),
        ("teacher_warmup_epochs", -1),
        ("teacher_warmup_factor", 0.5),
        ("views", -1),
        ("split", 0),
        ("alpha", 1.1),
        ("alpha", -0.1),
        ("alpha", float("nan")),
        ("weighting", "nearest"),
        ("unlabelled_weight", -0.5),
        ("kd_weight", -1.0),
    ],
)
def test_values_out_of_range_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        WADConfig(**{name: value})
    assert caught.value.key == name
