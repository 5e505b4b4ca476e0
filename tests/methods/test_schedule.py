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


def test_decay_by_hand() -> None:
    at = (0.0, 0.25, 0.5, 1.0)
    factors = {
        decay: [ScheduleConfig(lr_decay=decay, lr_power=2.0).lr_factor(progress) for progress in at]
        for decay in ("constant", "linear", "poly", "cosine")
    }
    assert factors["constant"] == [1, 1, 1, 1]
    assert factors["linear"] == pytest.approx([1, 0.75, 0.5, 0])
    assert factors["poly"] == pytest.approx([1, 0.5625, 0.25, 0])
    assert factors["cosine"] == pytest.approx([1, (2 + 2**0.5) / 4, 0.5, 0])


def test_warm_up_comes_before_the_decay_and_ends_its_first_step_above_zero() -> None:
    plan = ScheduleConfig(lr_decay="linear", warmup=0.2)
    assert [plan.lr_factor(p, step=0.1) for p in (0.0, 0.1, 0.2, 0.6)] == pytest.approx([0.5, 1, 1, 0.5])
    assert ScheduleConfig(warmup=0.2).lr_factor(0.9) == 1.0
    assert not ScheduleConfig(warmup=0.2).is_constant
    assert ScheduleConfig().is_constant


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("private_epochs", -1),
        ("private_steps", -1),
        ("distil_epochs", -1),
        ("distil_steps", -1),
        ("private_batch", 0),
        ("distil_batch", 0),
        ("optimizer", "lion"),
        ("lr_decay", "step"),
        ("lr_power", 0.0),
        ("warmup", 1.0),
        ("warmup", -0.1),
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
