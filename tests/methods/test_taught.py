import numpy as np

from fedkd.methods.taught import Taught
from tests.contract.toys import rows

# Four rows a sample; known are three rows of sample 1, none of 2, one of 3.
KNOWN = Taught(rows([4, 5, 7, 12], [[1], [2], [3], [4]], weight=np.array([0.1, 0.2, 0.3, 0.4], np.float32)), 4)


def test_rows_are_grouped_by_sample() -> None:
    assert len(KNOWN) == 2
    assert KNOWN.sample_ids.tolist() == [1, 3]


def test_a_batch_holds_each_sample_once_in_the_asked_order() -> None:
    batch = KNOWN.batch(np.array([1, 0]))
    assert batch.sample_ids.tolist() == [3, 1]
    assert batch.sample.tolist() == [0, 1, 1, 1]
    assert batch.position.tolist() == [0, 0, 1, 3]
    assert batch.values[:, 0].tolist() == [4, 1, 2, 3]
    assert batch.weight is not None
    np.testing.assert_allclose(batch.weight, [0.4, 0.1, 0.2, 0.3])


def test_the_dense_form_has_holes_where_nothing_is_known() -> None:
    values, known = KNOWN.batch(np.array([1, 0])).dense()
    assert values[:, :, 0].tolist() == [[4, 0, 0, 0], [1, 2, 0, 3]]
    assert known.tolist() == [[True, False, False, False], [True, True, False, True]]


def test_one_row_a_sample_is_as_it_was() -> None:
    taught = Taught(rows([2, 5, 9], [[1, 2], [3, 4], [5, 6]]), 1)
    batch = taught.batch(np.array([2, 0]))
    assert batch.sample_ids.tolist() == [9, 2]
    assert batch.values.tolist() == [[5, 6], [1, 2]]
    assert (batch.sample.tolist(), batch.position.tolist(), batch.weight) == ([0, 1], [0, 0], None)


def test_nothing_known_is_no_sample() -> None:
    nothing = Taught(rows([], np.zeros((0, 2))), 4)
    assert len(nothing) == 0
    assert nothing.batch(np.zeros(0, np.int64)).values.shape == (0, 2)
