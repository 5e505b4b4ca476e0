"""Private samples dealt to roles."""

import numpy as np
import pytest

from fedkd.data.base import ClientData, Samples
from fedkd.data.roles import RolesConfig, deal
from fedkd.errors import ConfigError, DataError

PRIVATE = Samples(np.arange(60, dtype=np.float32)[:, None], np.arange(60) % 3)
TEST = Samples(np.zeros((2, 1), np.float32), np.zeros(2, np.int64))


def dealt(private: Samples = PRIVATE, seed: int = 0, **options: object) -> ClientData:
    return deal(4, private, TEST, RolesConfig(**options), np.random.default_rng(seed))


def ids(data: ClientData, role: str) -> set[int]:
    return {int(value) for value in data.role(role).x[:, 0]}


def test_by_default_all_samples_are_labelled_training_samples() -> None:
    data = dealt()
    assert set(data.roles) == {"train", "test"} == RolesConfig().given
    np.testing.assert_array_equal(data.train.x, PRIVATE.x)
    assert data.seen is None
    assert data.oracle is None


@pytest.mark.parametrize(
    "options",
    [
        {"labelled": 4},
        {"targets": "2, 0"},
        {"targets": "1", "labelled": 5, "val": 0.4},
        {"val": 0.25},
        {"stream": 0.5, "labelled": 2, "budget": 3, "val": 0.5},
    ],
)
def test_each_sample_has_one_role_and_the_roles_are_those_that_were_promised(options: dict[str, object]) -> None:
    data = dealt(**options)
    assert set(data.roles) == RolesConfig(**options).given
    parts = [ids(data, role) for role in sorted(set(data.roles) - {"test", "pool", "source"})]
    assert set().union(*parts) == set(range(60))
    assert sum(map(len, parts)) == 60
    for role in {"unlabelled", "stream"} & set(data.roles):
        samples = data.role(role)
        assert samples.y is None
        np.testing.assert_array_equal(samples.groups, samples.x[:, 0].astype(int) % 3)  # for diagnostics


def test_only_target_classes_keep_labels_and_only_so_many_of_each() -> None:
    data = dealt(targets="0,2", labelled=4)
    assert np.bincount(data.train.labels).tolist() == [4, 0, 4]
    assert data.seen is not None
    assert data.seen.tolist() == [0, 2]
    assert len(data.role("unlabelled")) == 52
    other = dealt(seed=1, targets="0,2", labelled=4)
    assert ids(other, "train") != ids(data, "train")
    assert ids(dealt(targets="0,2", labelled=4), "train") == ids(data, "train")


def test_validation_holds_out_a_share_of_each_class() -> None:
    data = dealt(val=0.25)
    assert np.bincount(data.role("val").labels).tolist() == [5, 5, 5]


def test_the_oracle_tells_labels_of_the_pool_within_its_budget() -> None:
    data = dealt(labelled=2, budget=3)
    assert data.oracle is not None
    pool = data.role("pool")
    picked = np.array([7, 0, 3])
    np.testing.assert_array_equal(data.oracle.reveal(picked), pool.x[picked, 0].astype(int) % 3)
    assert len(data.oracle.reveal(picked[:0])) == 0
    for wrong in ([0, 1, 2, 3], [1, 1]):
        with pytest.raises(DataError, match=r"at most roles\.budget = 3"):
            data.oracle.reveal(np.array(wrong))
    with pytest.raises(DataError, match="samples -1 to 54 of 54"):
        data.oracle.reveal(np.array([-1, 54]))


def test_whether_a_role_is_there() -> None:
    data = dealt(val=0.25)
    assert data.has("val")
    assert not data.has("unlabelled")
    with pytest.raises(DataError, match="client 4 has no 'unlabelled' data"):
        data.role("unlabelled")


@pytest.mark.parametrize(("targets", "shown"), [("0,x", "0,x"), ("-1", "-1"), (",", ",")])
def test_targets_are_class_numbers(targets: str, shown: str) -> None:
    with pytest.raises(ConfigError, match=f"is '{shown}', expected different whole numbers"):
        RolesConfig(targets=targets)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="every private sample is labelled"):
        RolesConfig(budget=1)
    with pytest.raises(DataError, match="client 4 has 60 private samples, but none with a label"):
        dealt(targets="7")
    with pytest.raises(DataError, match="need a class for each sample"):
        dealt(Samples(PRIVATE.x, groups=np.zeros(60, np.int64)), labelled=1)


@pytest.mark.parametrize("more", [{}, {"labelled": 1}, {"targets": "0"}, {"val": 0.5}])
def test_a_stream_that_takes_all_is_named_as_the_cause(more: dict[str, object]) -> None:
    with pytest.raises(DataError, match=r"client 4 has 4 private samples, and roles\.stream = 0\.9 takes 4 of them"):
        dealt(PRIVATE.take(np.arange(4)), stream=0.9, **more)


@pytest.mark.parametrize("plan", [{"labelled": 1}, {"stream": 0.5}, {"targets": "0"}])
def test_a_client_without_samples_is_refused_by_name(plan: dict[str, object]) -> None:
    with pytest.raises(DataError, match="client 4 has 0 private samples, but none with a label"):
        dealt(PRIVATE.take(np.arange(0)), **plan)
