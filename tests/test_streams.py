import numpy as np
import pytest

from fedkd.streams import stream, stream_seed


def test_a_seed_is_the_same_on_every_machine() -> None:
    assert stream_seed(0, "partition") == 2825431667481113109
    assert stream_seed(7, "private-order", round_id=3, client=12) == 4776832003128791852
    assert stream(0, "partition").integers(10**6) == 265750


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((0, "a", None, None), (1, "a", None, None)),
        ((0, "a", None, None), (0, "b", None, None)),
        ((0, "a", 1, None), (0, "a", 2, None)),
        ((0, "a", 1, 2), (0, "a", 2, 1)),
        ((0, "a", 0, None), (0, "a", None, 0)),
        ((0, "a", None, None), (0, "a", 0, None)),
    ],
)
def test_streams_of_others_are_independent(first: tuple[int, str, int, int], second: tuple[int, str, int, int]) -> None:
    draws = [stream(s, name, round_id=r, client=c).random(100) for s, name, r, c in (first, second)]
    assert not np.isin(draws[0], draws[1]).any()
    assert abs(np.corrcoef(draws)[0, 1]) < 0.4


def test_one_more_draw_here_moves_nothing_there() -> None:
    before = stream(0, "a").random(3)
    stream(0, "b").random(1000)
    np.random.default_rng(0).random(5)
    np.testing.assert_array_equal(stream(0, "a").random(3), before)


def test_the_global_state_stays_where_it_is() -> None:
    before = np.random.get_state()[1].copy()
    stream(0, "a").random(3)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_seeds_fit_torch_and_are_never_negative() -> None:
    seeds = [stream_seed(0, "x", client=i) for i in range(2000)]
    assert len(set(seeds)) == 2000
    assert all(0 <= seed < 2**63 for seed in seeds)
