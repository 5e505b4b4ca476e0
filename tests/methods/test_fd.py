from typing import Any

import numpy as np
import pytest
import torch

from fedkd.errors import ConfigError
from fedkd.methods.base import State
from fedkd.methods.fd import FdConfig, FederatedDistillation
from fedkd.methods.schedule import ScheduleConfig
from fedkd.rows import Knowledge, Share
from fedkd.testing.toys import Toy, digest_of
from fedkd.testing.worlds import blobs
from tests.contract.toys import rows

pytestmark = pytest.mark.usefixtures("one_torch_thread")

ONE_STEP = ScheduleConfig(private_epochs=1, private_batch=100)  # all samples in one batch, at the weights before it
TWO_OF_FOUR = Toy(train=blobs([2, 0, 2, 2], seed=5), classes=4, schedule=ONE_STEP)


def round_of(toy: Toy, knowledge: Knowledge | None = None, **options: Any) -> tuple[State, Share]:
    trainer = FederatedDistillation(FdConfig(**options))
    state, _ = trainer.fit(toy.context(), trainer.init(toy.context()), knowledge or Knowledge())
    return state, trainer.share(toy.context(), state, ())


def test_a_share_is_the_mean_logits_of_each_class_held() -> None:
    trainer = FederatedDistillation(FdConfig())
    _, share = round_of(TWO_OF_FOUR)
    (row,) = share.rows
    (said,) = trainer.predict(
        TWO_OF_FOUR.context(), trainer.init(TWO_OF_FOUR.context()), TWO_OF_FOUR.train, np.arange(4)
    )
    assert row.stream == ("class", "logits", "")
    assert row.ids.tolist() == [0, 2]  # no row for the classes 1 and 3
    np.testing.assert_allclose(row.values, [said.values[1], said.values[[0, 2, 3]].mean(0)], rtol=1e-5)
    assert row.columns == {}  # how many samples a class has is the client's own affair


def test_sums_run_over_all_batches_of_the_round_and_start_anew() -> None:
    toy = Toy(train=blobs([2, 0, 2, 2], seed=5), classes=4, schedule=ScheduleConfig(private_epochs=3, private_batch=2))
    state, _ = round_of(toy)
    assert state["counts"].tolist() == [3, 0, 9, 0]
    trainer = FederatedDistillation(FdConfig())
    state, _ = trainer.fit(toy.context(1), state, Knowledge())
    assert state["counts"].tolist() == [3, 0, 9, 0]


def test_a_sample_that_its_pass_leaves_out_is_not_counted() -> None:
    toy = Toy(train=blobs([2, 0, 2, 2], seed=5), classes=4, schedule=ScheduleConfig(private_epochs=2, private_batch=3))
    state, _ = round_of(toy)  # two passes of one batch of three: the last of four samples would be a batch of its own
    assert state["counts"].sum() == 6


def test_before_any_training_there_is_nothing_to_say() -> None:
    trainer = FederatedDistillation(FdConfig())
    share = trainer.share(TWO_OF_FOUR.context(), trainer.init(TWO_OF_FOUR.context()), ())
    assert sum(len(row) for row in share.rows) == 0


def test_samples_are_drawn_to_the_mean_of_their_class() -> None:
    """One step at zero kd weight against one at weight 2: the difference is the gradient of 2 * mean KL."""
    target = [3.0, 0.0, 0.0, 0.0]
    taught = Knowledge(per_client={3: (rows([0], [target], space="class"),)})
    plain, drawn = round_of(TWO_OF_FOUR, taught, kd_weight=0.0)[0], round_of(TWO_OF_FOUR, taught, kd_weight=2.0)[0]
    moved = drawn["student"]["3.bias"] - plain["student"]["3.bias"]
    trainer = FederatedDistillation(FdConfig())
    (said,) = trainer.predict(
        TWO_OF_FOUR.context(), trainer.init(TWO_OF_FOUR.context()), TWO_OF_FOUR.train, np.array([1])
    )
    gradient = torch.from_numpy(said.values[0]).softmax(-1) - torch.tensor(target).softmax(-1)  # one sample has class 0
    torch.testing.assert_close(moved, -0.05 * 2.0 * gradient, atol=1e-6, rtol=1e-4)


def test_a_class_that_nobody_else_has_draws_nothing() -> None:
    elsewhere = Knowledge(per_client={3: (rows([1, 3], [[9.0] * 4, [-9.0] * 4], space="class"),)})
    assert digest_of(round_of(TWO_OF_FOUR, elsewhere)[0]) == digest_of(round_of(TWO_OF_FOUR)[0])


def test_rows_of_a_proxy_set_are_not_meant_for_it() -> None:
    proxy = Knowledge(common=(rows([0, 2], [[9.0] * 4, [-9.0] * 4]),))
    assert digest_of(round_of(TWO_OF_FOUR, proxy)[0]) == digest_of(round_of(TWO_OF_FOUR)[0])


def test_the_weight_is_not_negative() -> None:
    with pytest.raises(ConfigError, match="at least 0"):
        FdConfig(kd_weight=-0.1)
