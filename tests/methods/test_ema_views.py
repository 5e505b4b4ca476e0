from typing import Any

import numpy as np
import pytest
import torch

from fedkd.errors import ConfigError
from fedkd.methods.base import State
from fedkd.methods.ema_views import EmaViews, EmaViewsConfig, class_weights, mean_of_views
from fedkd.methods.schedule import ScheduleConfig
from fedkd.rows import Knowledge
from fedkd.testing.toys import Toy, digest_of
from fedkd.testing.worlds import blobs
from tests.contract.toys import rows

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def fit(toy: Toy, knowledge: Knowledge | None = None, **options: Any) -> State:
    trainer = EmaViews(EmaViewsConfig(**options))
    # Round 1: joint training takes no step before the first aggregate.
    state, _ = trainer.fit(toy.context(1), trainer.init(toy.context()), knowledge or Knowledge())
    return state


def test_class_weights_by_hand() -> None:
    # counts 3, 1, 0: mean 4/3, half of it added: 11/3, 5/3, 2/3
    weights = class_weights(np.array([3, 1, 0]), smoothing=0.5)
    np.testing.assert_allclose(weights, [1, 5 / 11, 2 / 11], rtol=1e-6)
    assert weights.dtype == np.float32
    assert class_weights(np.array([4, 4]), smoothing=2.0).tolist() == [1, 1]


def test_the_first_round_waits_for_the_first_aggregate_unless_the_private_part_has_its_own_phase() -> None:
    for order, is_trained in (("joint", False), ("private_then_distil", True)):
        trainer, ctx = EmaViews(EmaViewsConfig(order=order)), Toy().context()
        start = trainer.init(ctx)
        state, metrics = trainer.fit(ctx, start, Knowledge())
        for view in ("student", "ema"):
            assert (digest_of(state[view]) != digest_of(start[view])) == is_trained
        assert bool(metrics) == is_trained


def test_both_views_are_shared_with_the_weights_of_the_client() -> None:
    toy = Toy(train=blobs([2, 0, 0, 0], seed=5), classes=3)
    trainer = EmaViews(EmaViewsConfig(smoothing=0.5))
    state = fit(toy)
    views = trainer.predict(toy.context(), state, toy.public, toy.accepted)
    share = trainer.share(toy.context(), state, views)
    assert [row.stream for row in share.rows] == [("proxy", "probs", ""), ("proxy", "probs", "ema")]
    for row, view in zip(share.rows, views, strict=True):
        np.testing.assert_array_equal(row.values, view.values)
        np.testing.assert_allclose(row.weight, np.tile([1, 2 / 11, 5 / 11], (len(toy.accepted), 1)), rtol=1e-6)
        np.testing.assert_allclose(row.values.sum(1), 1, rtol=1e-6)


def test_each_view_is_that_of_its_own_weights() -> None:
    trainer, ctx = EmaViews(EmaViewsConfig()), Toy().context()
    state = fit(Toy(), decay=0.9)
    swapped = {**state, "student": state["ema"], "ema": state["student"]}
    main, view = trainer.predict(ctx, state, Toy.public, Toy().accepted)
    other_main, other_view = trainer.predict(ctx, swapped, Toy.public, Toy().accepted)
    np.testing.assert_array_equal(main.values, other_view.values)
    np.testing.assert_array_equal(view.values, other_main.values)
    assert not np.array_equal(main.values, view.values)


def test_the_average_follows_each_step_by_hand() -> None:
    toy = Toy(schedule=ScheduleConfig(private_steps=1))
    start = EmaViews(EmaViewsConfig()).init(toy.context())
    assert digest_of(start["student"]) == digest_of(start["ema"])
    state = fit(toy, decay=0.75, private_weight=1.0)
    for name, slow in state["ema"].items():
        torch.testing.assert_close(slow, 0.75 * start["student"][name] + 0.25 * state["student"][name])
    assert not torch.equal(state["ema"]["1.weight"], state["student"]["1.weight"])


def test_without_decay_both_views_are_one() -> None:
    state = fit(Toy(), decay=0.0)
    for name, slow in state["ema"].items():
        torch.testing.assert_close(slow, state["student"][name])


def test_the_average_lags_behind_over_several_steps() -> None:
    state, start = fit(Toy(), decay=0.9), EmaViews(EmaViewsConfig()).init(Toy().context())
    way = (state["student"]["3.bias"] - start["student"]["3.bias"]).norm()
    slow_way = (state["ema"]["3.bias"] - start["student"]["3.bias"]).norm()
    assert 0 < slow_way < way


def test_the_views_of_the_teacher_are_averaged_by_hand() -> None:
    main, view = rows([0, 2], [[1, 0], [0.5, 0.5]], kind="probs"), rows([2, 5], [[0, 1], [0.2, 0.8]], kind="probs")
    mean = mean_of_views((main, view))
    assert mean is not None
    assert mean.ids.tolist() == [0, 2, 5]
    np.testing.assert_allclose(mean.values, [[1, 0], [0.25, 0.75], [0.2, 0.8]])
    assert mean.values.dtype == np.float32
    assert mean_of_views(()) is None


def test_the_mean_of_the_views_teaches() -> None:
    main = rows(range(4), [[0.9, 0.1]] * 4, kind="probs")
    view = rows(range(4), [[0.5, 0.5]] * 4, kind="probs", variant="ema")
    both = Knowledge(common=(main, view))
    middle = Knowledge(common=(rows(range(4), [[0.7, 0.3]] * 4, kind="probs"),))
    np.testing.assert_allclose(
        fit(Toy(), both)["student"]["3.bias"], fit(Toy(), middle)["student"]["3.bias"], atol=1e-6
    )
    assert digest_of(fit(Toy(), both)) != digest_of(fit(Toy(), Knowledge(common=(main,))))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("order", "both"),
        ("private_weight", -1.0),
        ("kd_weight", -1.0),
        ("decay", 1.0),
        ("decay", -0.1),
        ("smoothing", 0.0),
    ],
)
def test_values_out_of_range_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        EmaViewsConfig(**{key: value})
    assert caught.value.key == key
