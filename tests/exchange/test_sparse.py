import numpy as np
import pytest

from fedkd.exchange.combine import HOW, VOTERS, combine
from fedkd.functional.aggregation import log_normalise
from fedkd.functional.supports import spread_support, top_support
from fedkd.rows import Rows
from tests.contract.toys import rows

COLUMNS = 7


def top(ids: list[int], probs: list[list[float]], support: list[list[int]], **options: object) -> Rows:
    return rows(ids, np.log(probs), kind="log_probs", support=np.array(support, np.int32), **options)


def test_two_clients_by_hand() -> None:
    # Of five columns, dense: (.5, .2, .1, .1, .1) and (.1, .6, .1, .1, .1): the geometric mean, normalised.
    first = top([4], [[0.5, 0.2, 0.3]], [[0, 1]])
    second = top([4], [[0.6, 0.1, 0.3]], [[1, 3]])
    made = combine([first, second], num_columns=5)
    dense = np.sqrt(np.array([0.5, 0.2, 0.1, 0.1, 0.1]) * np.array([0.1, 0.6, 0.1, 0.1, 0.1]))
    dense /= dense.sum()
    assert made.support is not None
    assert (made.support.tolist(), made.support.dtype) == ([[0, 1]], np.int32)
    np.testing.assert_allclose(np.exp(made.values), [[dense[0], dense[1], dense[2:].sum()]], rtol=1e-5)
    assert made.columns[VOTERS].tolist() == [2]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("k", [1, 3, COLUMNS - 1])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_it_is_what_dense_rows_give_cut_down_again(how: str, k: int, is_weighted: bool) -> None:
    rng = np.random.default_rng(k)
    sparse, dense = [], []
    for _ in range(4):
        log_probs = log_normalise(3 * rng.normal(size=(9, COLUMNS)))
        values, support = top_support(log_probs, k)
        weight = rng.random(9).astype(np.float32) if is_weighted else None
        columns = {"gap": rng.random(9).astype(np.float32)}
        keep = rng.random(9) < 0.6
        said = rows(range(9), values, kind="log_probs", support=support, weight=weight, columns=columns)
        sparse.append(said.where(keep))
        spread = spread_support(values, support, COLUMNS)
        dense.append(rows(range(9), spread, kind="log_probs", weight=weight, columns=columns).where(keep))
    made, whole = combine(sparse, how, num_columns=COLUMNS), combine(dense, how)
    np.testing.assert_array_equal(made.ids, whole.ids)
    assert made.support is not None
    assert (np.diff(made.support, axis=1) > 0).all()
    expected, _ = top_support(whole.values, k)
    np.testing.assert_allclose(np.sort(made.values[:, :k]), np.sort(expected[:, :k]), atol=1e-4)
    np.testing.assert_allclose(made.values[:, k], expected[:, k], atol=1e-4)
    at_support = np.take_along_axis(whole.values, made.support.astype(np.int64), 1)
    np.testing.assert_allclose(made.values[:, :k], at_support, atol=1e-4)
    np.testing.assert_allclose(np.exp(made.values).sum(1), 1, rtol=1e-5)
    for name in ("gap", VOTERS):
        np.testing.assert_allclose(made.columns[name], whole.columns[name], rtol=1e-6)


def test_a_single_voice_comes_back() -> None:
    said = top([0, 3], [[0.5, 0.25, 0.25], [0.3, 0.3, 0.4]], [[1, 4], [0, 6]])
    made = combine([said], num_columns=COLUMNS)
    np.testing.assert_array_equal(made.support, said.support)
    np.testing.assert_allclose(made.values, said.values, atol=1e-6)


def test_without_the_number_of_columns_it_is_refused() -> None:
    with pytest.raises(ValueError, match="give num_columns"):
        combine([top([0], [[0.5, 0.5]], [[1]])])
