import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedkd.functional.pooling import pool_rows, spread_rows
from tests.contract.toys import rows

GRID = (3, 4)  # with a factor of 2 the lower cells are one position high


def test_a_cell_is_named_by_its_first_position_and_means_those_that_are_there_by_hand() -> None:
    # 0 1 | 2 3
    # 4 5 | 6 7
    # ----+----  and 12 more for the second sample
    # 8 9 | 10 11
    made = rows([0, 5, 6, 9, 14], [[1], [3], [5], [7], [9]], weight=np.float32([1, 0.5, 1, 1, 1]))
    pooled = pool_rows(made, grid=GRID, factor=2)
    assert pooled.ids.tolist() == [0, 2, 8, 14]
    assert pooled.values.tolist() == [[2], [5], [7], [9]]
    assert pooled.weight is not None
    assert pooled.weight.tolist() == [0.75, 1, 1, 1]


def test_a_pooled_row_goes_to_all_positions_of_its_cell_by_hand() -> None:
    pooled = rows([0, 8, 14], [[2], [7], [9]], columns={"gap": np.float32([1, 2, 3])})
    spread = spread_rows(pooled, grid=GRID, factor=2)
    assert spread.ids.tolist() == [0, 1, 4, 5, 8, 9, 14, 15, 18, 19]
    assert spread.values[:, 0].tolist() == [2] * 4 + [7] * 2 + [9] * 4
    assert spread.columns["gap"].tolist() == [1] * 4 + [2] * 2 + [3] * 4


@given(st.sets(st.integers(0, 29), max_size=12), st.integers(1, 4), st.sampled_from([(3, 5), (5, 3), (1, 15)]))
def test_pooling_what_was_spread_gives_it_back(cells: set[int], factor: int, grid: tuple[int, int]) -> None:
    some = rows(sorted(cells), [[float(i)] for i in sorted(cells)] or np.zeros((0, 1)))
    pooled = pool_rows(some, grid=grid, factor=factor)
    again = pool_rows(spread_rows(pooled, grid=grid, factor=factor), grid=grid, factor=factor)
    np.testing.assert_array_equal(again.ids, pooled.ids)
    np.testing.assert_allclose(again.values, pooled.values, rtol=1e-6)
    assert (np.diff(pooled.ids) > 0).all()
