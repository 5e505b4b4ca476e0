import numpy as np

from fedkd.data.base import Samples
from fedkd.data.proxy import Proxy, row_ids


def test_row_ids_by_hand() -> None:
    assert row_ids(np.array([0, 3]), 1).tolist() == [0, 3]
    assert row_ids(np.array([0, 3]), 4).tolist() == [0, 1, 2, 3, 12, 13, 14, 15]
    assert row_ids(np.zeros(0, np.int64), 4).tolist() == []
    valid = np.array([[True, False], [False, False], [True, True]])
    assert row_ids(np.array([2, 0]), 2, valid).tolist() == [4, 5, 0]


def test_a_proxy_leaves_out_the_rows_that_do_not_count() -> None:
    proxy = Proxy(
        samples=Samples(np.zeros((2, 3), np.int32)),
        version="",
        own_ids=np.zeros(0, np.int64),
        accepted=np.ones(2, bool),
        asked=np.arange(2),
        rows_per_sample=3,
        valid=np.array([[True, True, False], [False, True, True]]),
    )
    assert proxy.row_ids(proxy.asked).tolist() == [0, 1, 4, 5]
