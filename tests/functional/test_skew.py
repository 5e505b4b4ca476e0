import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.spatial.distance import jensenshannon
from scipy.special import entr

from fedkd.functional import skew
from fedkd.functional.skew import class_mix, mean_label_emd, mean_pairwise_js
from fedkd.types import Array

COUNTS = arrays(np.int64, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.integers(0, 50))


def test_disjoint_classes_are_as_far_apart_as_can_be() -> None:
    counts = np.eye(10, dtype=np.int64) * 7
    assert mean_pairwise_js(counts) == pytest.approx(1.0)
    assert mean_label_emd(counts) == pytest.approx(1.8)  # |1 - 0.1| + 9 * 0.1


def test_equal_mixes_have_no_skew_whatever_their_size() -> None:
    counts = np.outer([1, 5, 100], [2, 1, 7])
    assert mean_pairwise_js(counts) == pytest.approx(0.0, abs=1e-12)
    assert mean_label_emd(counts) == pytest.approx(0.0, abs=1e-12)


def test_a_hand_worked_pair() -> None:
    counts = np.array([[4, 0], [2, 2]])  # mixes (1, 0) and (1/2, 1/2), middle (3/4, 1/4), together (3/4, 1/4)
    entropy_middle = -(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25))
    assert mean_pairwise_js(counts) == pytest.approx(entropy_middle - 0.5)
    assert mean_label_emd(counts) == pytest.approx(0.5)


def test_clients_without_samples_are_left_out() -> None:
    counts = np.array([[4, 0], [0, 0], [2, 2]])
    assert len(class_mix(counts)) == 2
    assert mean_pairwise_js(counts) == mean_pairwise_js(counts[[0, 2]])
    assert mean_label_emd(counts) == mean_label_emd(counts[[0, 2]])


@pytest.mark.parametrize("counts", [np.zeros((3, 4), np.int64), np.zeros((0, 4), np.int64), np.array([[3, 0, 0, 1]])])
def test_without_a_pair_there_is_no_skew(counts: Array) -> None:
    assert mean_pairwise_js(counts) == 0.0
    assert mean_label_emd(counts) == 0.0


@given(COUNTS)
def test_js_agrees_with_scipy_and_stays_in_range(counts: Array) -> None:
    mix = class_mix(counts)
    with np.errstate(invalid="ignore"):
        pairs = [jensenshannon(p, q, base=2) ** 2 for i, p in enumerate(mix) for q in mix[i + 1 :]]
    expected = np.nan_to_num(pairs).mean() if pairs else 0.0  # scipy has NaN where rounding turns 0 negative
    assert mean_pairwise_js(counts) == pytest.approx(expected, abs=1e-9)
    assert 0.0 <= mean_pairwise_js(counts) <= 1.0
    assert 0.0 <= mean_label_emd(counts) <= 2.0


@given(COUNTS, st.randoms(use_true_random=False))
def test_the_order_of_clients_is_irrelevant(counts: Array, random: object) -> None:
    shuffled = counts[np.random.default_rng(0).permutation(len(counts))]
    assert mean_pairwise_js(shuffled) == pytest.approx(mean_pairwise_js(counts), abs=1e-12)
    assert mean_label_emd(shuffled) == pytest.approx(mean_label_emd(counts), abs=1e-12)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = np.random.default_rng(0).integers(0, 20, (23, 5))
    whole = mean_pairwise_js(counts)
    for values in (1, 300, 700):
        monkeypatch.setattr(skew, "_BLOCK_VALUES", values)
        assert mean_pairwise_js(counts) == pytest.approx(whole, abs=1e-12)


def test_a_thousand_clients_take_few_and_bounded_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def counted(values: Array) -> Array:
        sizes.append(values.size)
        found: Array = entr(values)
        return found

    monkeypatch.setattr(skew, "entr", counted)
    mean_pairwise_js(np.random.default_rng(0).integers(0, 20, (1000, 10)))
    assert max(sizes) <= skew._BLOCK_VALUES
    assert len(sizes) == 11  # the clients' own entropy, and ten blocks of 104 clients: no loop over pairs
