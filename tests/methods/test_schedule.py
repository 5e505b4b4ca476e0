from typing import Any

import pytest

from fedkd.errors import ConfigError
from fedkd.methods.schedule import ScheduleConfig


def test_epochs_are_counted_in_batches_the_last_may_be_short() -> None:
    plan = ScheduleConfig(private_epochs=2, private_batch=32, distil_epochs=3, distil_batch=64)
    assert [plan.num_private_steps(n) for n in (1, 32, 34, 64)] == [2, 2, 4, 4]
    assert [plan.num_distil_steps(n) for n in (1, 64, 66)] == [3, 3, 6]


def test_an_epoch_is_one_pass_also_where_it_leaves_a_lone_sample_out() -> None:
    plan = ScheduleConfig(private_epochs=2, private_batch=32, distil_epochs=3, distil_batch=64)
    assert plan.num_private_steps(33) == 2  # 32 samples a pass, not 64
    assert plan.num_distil_steps(129) == 6


def test_steps_win_over_epochs() -> None:
    plan = ScheduleConfig(private_epochs=9, private_steps=5, distil_epochs=9, distil_steps=7)
    assert plan.num_private_steps(1000) == 5
    assert plan.num_distil_steps(1000) == 7


def test_no_rows_no_steps() -> None:
    assert ScheduleConfig(distil_steps=7).num_distil_steps(0) == 0


def test_the_learning_rate_falls_every_so_many_rounds_by_hand() -> None:
    plan = ScheduleConfig(lr=0.08, lr_gamma=0.5, lr_every=3)
    assert [plan.lr_at(i) for i in (0, 2, 3, 5, 6)] == pytest.approx([0.08, 0.08, 0.04, 0.04, 0.02])
    assert ScheduleConfig(lr=0.08, lr_gamma=0.5).lr_at(100) == 0.08  # never, unless it says how often
    assert ScheduleConfig(lr=0.08, lr_every=1).lr_at(100) == 0.08


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
        ("lr_gamma", 0.0),
        ("lr_gamma", 1.1),
        ("lr_every", -1),
    ],
)
def test_values_out_of_range_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        ScheduleConfig(**{key: value})
    assert caught.value.key == key
