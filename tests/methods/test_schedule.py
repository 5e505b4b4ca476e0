from typing import Any

import pytest

from fedkd.errors import ConfigError
from fedkd.methods.schedule import ScheduleConfig


def test_epochs_are_counted_in_batches_the_last_may_be_short() -> None:
    plan = ScheduleConfig(private_epochs=2, private_batch=32, distil_epochs=3, distil_batch=64)
    assert [plan.num_private_steps(n) for n in (1, 32, 33, 64)] == [2, 2, 4, 4]
    assert [plan.num_distil_steps(n) for n in (1, 64, 65)] == [3, 3, 6]


def test_steps_win_over_epochs() -> None:
    plan = ScheduleConfig(private_epochs=9, private_steps=5, distil_epochs=9, distil_steps=7)
    assert plan.num_private_steps(1000) == 5
    assert plan.num_distil_steps(1000) == 7


def test_no_rows_no_steps() -> None:
    assert ScheduleConfig(distil_steps=7).num_distil_steps(0) == 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("private_epochs", -1),
        ("private_steps", -1),
        ("distil_epochs", -1),
        ("distil_steps", -1),
        ("private_batch", 0),
        ("distil_batch", 0),
        ("optimizer", "adamw"),
        ("lr", 0.0),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("weight_decay", -0.1),
    ],
)
def test_values_out_of_range_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        ScheduleConfig(**{key: value})
    assert caught.value.key == key
