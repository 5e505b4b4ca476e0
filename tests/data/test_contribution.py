import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.data.contribution import split_contribution
from fedkd.errors import DataError


def test_a_tenth_of_a_hundred() -> None:
    given_away, kept = split_contribution(100, fraction=0.1, keep_private=False, rng=np.random.default_rng(0))
    assert (len(given_away), len(kept)) == (10, 90)


@given(size=st.integers(2, 300), fraction=st.floats(1e-6, 1 - 1e-6), keep=st.booleans(), seed=st.integers(0, 9))
def test_parts_are_ascending_and_nothing_is_lost(size: int, fraction: float, keep: bool, seed: int) -> None:
    given_away, kept = split_contribution(size, fraction=fraction, keep_private=keep, rng=np.random.default_rng(seed))
    assert len(given_away) >= 1
    assert len(kept) >= 1
    assert given_away.dtype == np.int64
    assert kept.dtype == np.int64
    assert (np.diff(given_away) > 0).all()
    expected = np.arange(size) if keep else np.setdiff1d(np.arange(size), given_away)
    np.testing.assert_array_equal(kept, expected)
    again = split_contribution(size, fraction=fraction, keep_private=keep, rng=np.random.default_rng(seed))
    np.testing.assert_array_equal(again[0], given_away)


def test_a_single_sample_can_only_be_shared_where_it_stays() -> None:
    given_away, kept = split_contribution(1, fraction=0.1, keep_private=True, rng=np.random.default_rng(0))
    assert (given_away.tolist(), kept.tolist()) == ([0], [0])
    with pytest.raises(DataError, match="1 private samples, expected at least 2"):
        split_contribution(1, fraction=0.1, keep_private=False, rng=np.random.default_rng(0))


def test_no_sample_at_all_is_an_error() -> None:
    with pytest.raises(DataError, match="0 private samples, expected at least 1"):
        split_contribution(0, fraction=0.1, keep_private=True, rng=np.random.default_rng(0))
