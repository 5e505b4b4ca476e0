"""Two clients, two classes: A holds class 0, B class 1. Check 14 of the EdgeFD specification, level by level."""

import numpy as np
import pytest

from fedkd.data.base import Samples
from fedkd.exchange.combine import masked_mean
from fedkd.filters.kmeans import KMeansConfig, KMeansFilter
from fedkd.filters.selection import select
from fedkd.methods.base import State
from fedkd.methods.schedule import ScheduleConfig
from fedkd.methods.soft_targets import SoftTargets, SoftTargetsConfig
from fedkd.rows import Knowledge, Rows
from fedkd.testing.toys import Toy
from fedkd.testing.worlds import blobs
from fedkd.types import Ids

pytestmark = pytest.mark.usefixtures("one_torch_thread")

PLAN = ScheduleConfig(private_epochs=30, private_batch=8, distil_epochs=40, distil_batch=8)
EXPERTS = [Toy(train=blobs([k] * 40, seed=10 + k), client_id=k, schedule=PLAN) for k in (0, 1)]
TRAINER = SoftTargets(SoftTargetsConfig(payload="probs"))
EVERY = np.arange(len(Toy.public))


@pytest.fixture(scope="module")
def students() -> list[State]:
    """Each trained on its one class until it says nothing else."""
    return [TRAINER.fit(toy.context(), TRAINER.init(toy.context()), Knowledge())[0] for toy in EXPERTS]


def accepted_by(toy: Toy) -> Ids:
    mask = select(
        KMeansFilter(KMeansConfig(quantile=0.95), seed=0),
        private=toy.train,
        proxy=Samples(Toy.public.x),
        own_ids=np.zeros(0, np.int64),
        own_sample_stage=False,
        holdout=0.2,
        rng=np.random.default_rng(0),
    ).accepted
    return np.flatnonzero(mask)


def teacher(students: list[State], ids: list[Ids]) -> Rows:
    said = []
    for toy, state, own in zip(EXPERTS, students, ids, strict=True):
        ctx = toy.context()
        said += TRAINER.share(ctx, state, TRAINER.predict(ctx, state, Toy.public, own)).rows
    return masked_mean(said)


def accuracies(students: list[State], taught: Rows) -> list[float]:
    """After digesting the teacher, without private training."""
    found = []
    for toy, state in zip(EXPERTS, students, strict=True):
        ctx = toy.context(1, closing=True)
        state, _ = TRAINER.fit(ctx, state, Knowledge(common=(taught,)))
        found.append(TRAINER.evaluate(ctx, state, Toy.test).score)
    return found


def test_an_expert_alone_knows_one_class(students: list[State]) -> None:
    for k, (toy, state) in enumerate(zip(EXPERTS, students, strict=True)):
        (said,) = TRAINER.predict(toy.context(), state, Toy.test, np.arange(len(Toy.test)))
        assert (said.values.argmax(1) == k).all()


def test_the_filter_lets_each_client_speak_for_its_own_class_alone() -> None:
    for k, toy in enumerate(EXPERTS):
        assert len(accepted_by(toy)) >= 6  # of eight
        assert (Toy.public.labels[accepted_by(toy)] == k).all()


def test_with_the_filter_both_learn_both_classes(students: list[State]) -> None:
    taught = teacher(students, [accepted_by(toy) for toy in EXPERTS])
    assert (taught.values.argmax(1) == Toy.public.labels[taught.ids]).all()
    assert taught.values.max(1).min() > 0.9
    assert min(accuracies(students, taught)) > 0.95


def test_without_it_the_mean_of_one_shot_experts_knows_nothing(students: list[State]) -> None:
    taught = teacher(students, [EVERY, EVERY])
    np.testing.assert_allclose(taught.values, 0.5, atol=0.05)  # fifty-fifty everywhere
    assert taught.ids.tolist() == EVERY.tolist()
