import numpy as np
import pytest

from fedkd.exchange import robust
from fedkd.exchange.combine import VOTERS, combine
from fedkd.rows import Rows
from fedkd.types import Array
from tests.contract.toys import rows


def said(*values: float, ids: tuple[int, ...] = (3,)) -> list[Rows]:
    return [rows(ids, [[value, -value]] * len(ids)) for value in values]


@pytest.mark.parametrize(
    ("how", "values", "expected"),
    [
        ("median", [4], 4),
        ("median", [4, 1], 2.5),
        ("median", [9, 1, 2], 2),
        ("median", [9, 1, 2, 4], 3),
        ("trimmed", [4, 1], 2.5),  # of two, none is dropped
        ("trimmed", [9, 1, 2], 2),
        ("trimmed", [9, 1, 2, 4], 3),
        ("trimmed", [0, 1, 2, 3, 100], 2),
        ("trimmed", [0, 0, 1, 2, 3, 6, 99, 99], 3),  # two of eight at each end
    ],
)
def test_the_middle_by_hand(how: str, values: list[float], expected: float) -> None:
    made = combine(said(*values), how)
    assert made.values.tolist() == [[expected, -expected]]
    assert made.columns[VOTERS].tolist() == [len(values)]


def test_a_client_votes_on_the_ids_that_it_spoke_for_alone() -> None:
    ragged = [rows([0, 2], [[1], [5]]), rows([2, 7], [[6], [8]]), rows([2], [[900]])]
    made = combine(ragged, "median")
    assert (made.ids.tolist(), made.values[:, 0].tolist()) == ([0, 2, 7], [1, 6, 8])
    assert made.columns[VOTERS].tolist() == [1, 3, 1]


def test_a_weight_of_zero_is_no_vote_and_any_other_is_one() -> None:
    weights: list[Array] = [np.float32([[1, 0]]), np.float32([[0.01, 0]]), np.float32([[0, 0]])]
    every = [rows([0], [[v, v]], weight=weight) for v, weight in zip([1, 3, 50], weights, strict=True)]
    made = combine(every, "median")
    assert made.values.tolist() == [[2, 3]]  # nobody owns the second class: all vote, and it is marked
    assert made.weight is not None
    assert made.weight.tolist() == [[1, 0]]


def test_medians_of_probabilities_sum_to_one() -> None:
    every = [rows([0], [p], kind="probs") for p in ([0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.5, 0.2, 0.3])]
    np.testing.assert_allclose(combine(every, "median").values, [np.array([0.5, 0.2, 0.1]) / 0.8], rtol=1e-6)
    corners = [rows([0], [p], kind="probs") for p in np.eye(3)]
    np.testing.assert_allclose(combine(corners, "median").values, [[1 / 3] * 3], rtol=1e-6)  # the medians are zero


def test_the_best_has_the_word_and_the_first_of_equals() -> None:
    first = rows([0, 1, 2], [[1], [2], [3]], weight=np.float32([0.5, 0.2, 0]))
    second = rows([0, 1, 5], [[4], [5], [6]], weight=np.float32([0.5, 0.9, 0]))
    made = combine([first, second], "best")
    assert (made.ids.tolist(), made.values[:, 0].tolist()) == ([0, 1, 2, 5], [1, 5, 3, 6])
    assert made.columns[VOTERS].tolist() == [2, 2, 1, 1]
    loud = [rows([0], [[1, 2]], weight=np.float32([0.6])), rows([0], [[3, 4]], weight=np.float32([[1, 0]]))]
    assert combine(loud, "best").values.tolist() == [[1, 2]]  # .6 against a mean of .5


@pytest.mark.parametrize("how", ["median", "trimmed"])
def test_blocks_change_nothing(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    every = [rows(range(40), rng.normal(size=(40, 3))).where(rng.random(40) < 0.7) for _ in range(5)]
    whole = combine(every, how)
    monkeypatch.setattr(robust, "_BLOCK", 31)
    parts = combine(every, how)
    assert whole.values.tobytes() == parts.values.tobytes()
    assert whole.columns[VOTERS].tolist() == parts.columns[VOTERS].tolist()
