import math

import pytest

from fedkd.report.compare.statistics import holm, paired_p


def test_paired_p_by_hand():
    # Differences 1, 2, 3: mean 2, sample sd 1, so t = 2 / (1 / sqrt 3) = 3.4641 with two degrees of freedom, for which
    # p = 1 - t / sqrt(2 + t^2) = 1 - sqrt(12 / 14).
    first, second = {"0": 2.0, "1": 4.0, "2": 6.0}, {"0": 1.0, "1": 2.0, "2": 3.0}
    assert paired_p(first, second) == pytest.approx(1 - math.sqrt(12 / 14))
    assert paired_p(second, first) == pytest.approx(1 - math.sqrt(12 / 14))


def test_only_seeds_that_both_have_are_paired():
    first = {"0": 2.0, "9": 100.0, "1": 4.0, "2": 6.0}
    assert paired_p(first, {"2": 3.0, "1": 2.0, "0": 1.0, "8": 0.0}) == pytest.approx(1 - math.sqrt(12 / 14))


@pytest.mark.parametrize("second", [{}, {"0": 1.0}, {"1": 1.0, "2": 3.0}])
def test_fewer_than_two_common_seeds_are_no_test(second):
    assert paired_p({"0": 1.0, "3": 2.0}, second) is None


def test_equal_values_differ_by_nothing():
    values = {"0": 0.5, "1": 0.25, "2": 0.75}
    assert paired_p(values, dict(values)) == 1.0
    assert paired_p({"0": 0.0, "1": 0.0}, {"0": 0.0, "1": 0.0}) == 1.0


@pytest.mark.parametrize(("seeds", "p"), [(2, 0.5), (3, 0.25), (6, 1 / 32)])
def test_equal_differences_fall_back_to_the_sign_test(seeds, p):
    # 0.1 is no binary fraction: the differences agree but for rounding, which must not make t huge.
    first = {str(i): 0.1 * i + 0.1 for i in range(seeds)}
    assert paired_p(first, {str(i): 0.1 * i for i in range(seeds)}) == p


def test_holm_by_hand():
    # Sorted: 0.01 x 4 = 0.04, 0.02 x 3 = 0.06, 0.03 x 2 = 0.06, 0.04 x 1 = 0.04 which may not be below 0.06.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])


def test_holm_of_none_one_and_large():
    assert holm([]) == []
    assert holm([0.03]) == [0.03]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
