"""KuLSIF against densities that are known, and against a plain reading of its equations."""

import numpy as np
import pytest

from fedkd.functional.kernel_density import kernel_sum
from fedkd.functional.kulsif import kulsif_weights
from fedkd.types import Array

GRID = np.linspace(-4, 4, 161)[:, None]
TRUE = 2.0 * np.exp(-(GRID[:, 0] ** 2) / 2 + GRID[:, 0] ** 2 / 8)  # N(0, 1) over N(0, 2^2), peak 2


def gaussians(seed: int, size: int = 500) -> tuple[Array, Array]:
    """Auxiliary samples of the wide density, known ones of the narrow."""
    rng = np.random.default_rng(seed)
    known = rng.normal(size=(size, 1))
    return 2.0 * rng.normal(size=(size, 1)), known


def ratio(auxiliary: Array, known: Array, x: Array, *, sigma: float, compat: bool = False) -> Array:
    weights = kulsif_weights(auxiliary, known, sigma=sigma, regularisation=len(auxiliary) ** -0.5, compat=compat)
    mantissa, exponent = kernel_sum(x, np.concatenate([auxiliary, known]), weights, sigma=sigma)
    values: Array = mantissa * np.exp(exponent)
    return values


def naive_ratio(auxiliary: Array, known: Array, x: Array, *, sigma: float, compat: bool = False) -> Array:
    """Section 4.1 sample by sample, with an inverse."""

    def k(a: Array, b: Array) -> float:
        return float(np.exp(-((a - b) ** 2).sum() / (2 * sigma**2)))

    n, m = len(auxiliary), len(known)
    regularisation = n**-0.5
    k11 = np.array([[k(a, b) for b in auxiliary] for a in auxiliary])
    k12 = np.array([[k(a, b) for b in known] for a in auxiliary])
    matrix = k11 / n + regularisation * np.eye(n)
    alpha = -(1 / (n * m * regularisation)) * (matrix if compat else np.linalg.inv(matrix)) @ k12 @ np.ones(m)
    return np.array(
        [
            sum(alpha[j] * k(row, auxiliary[j]) for j in range(n))
            + sum(k(row, v) for v in known) / (m * regularisation)
            for row in x
        ]
    )


@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("sigma", [0.5, 1.0])
def test_the_ratio_of_two_known_gaussians(seed: int, sigma: float) -> None:
    """Check 1 of the EdgeFD specification."""
    estimate = ratio(*gaussians(seed), GRID, sigma=sigma)
    assert np.corrcoef(estimate, TRUE)[0, 1] > 0.97
    assert np.abs(estimate - TRUE).max() < 0.8
    assert 1.3 < estimate.max() < 2.4


@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("sigma", [0.5, 1.0])
def test_the_published_defect_spoils_the_value_and_here_not_the_order(seed: int, sigma: float) -> None:
    auxiliary, known = gaussians(seed)
    compat = ratio(auxiliary, known, GRID, sigma=sigma, compat=True)
    assert 8.0 < compat.max() < 15.0  # the true peak is 2
    assert np.corrcoef(compat, TRUE)[0, 1] > 0.97
    assert np.corrcoef(compat, ratio(auxiliary, known, GRID, sigma=sigma))[0, 1] > 0.97


def test_for_a_wide_kernel_the_defect_spoils_the_order_too() -> None:
    """Two classes on either side of nothing: the defect prefers the middle, where no sample lies."""
    rng = np.random.default_rng(1)
    known = np.concatenate([rng.normal(side * 2.5, 0.5, (250, 1)) for side in (-1, 1)])
    auxiliary = rng.uniform(-4, 4, (500, 1))
    right, compat = (ratio(auxiliary, known, GRID, sigma=3.0, compat=each) for each in (False, True))
    assert np.corrcoef(compat, right)[0, 1] < 0.0
    middle, side = np.abs(GRID[:, 0]).argmin(), np.abs(GRID[:, 0] - 2.5).argmin()
    assert right[side] > right[middle]
    assert compat[side] < compat[middle]


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("width", [1, 3])
def test_it_agrees_with_a_plain_reading_of_the_equations(width: int, compat: bool) -> None:
    rng = np.random.default_rng(width)
    auxiliary, known, x = rng.uniform(-3, 3, (9, width)), rng.normal(size=(7, width)), rng.normal(size=(11, width))
    ours = ratio(auxiliary, known, x, sigma=0.8, compat=compat)
    np.testing.assert_allclose(ours, naive_ratio(auxiliary, known, x, sigma=0.8, compat=compat), rtol=1e-9, atol=1e-11)


def test_equal_auxiliary_samples_are_no_trouble() -> None:
    weights = kulsif_weights(np.zeros((5, 2)), np.zeros((3, 2)), sigma=1.0, regularisation=0.4)
    assert np.isfinite(weights).all()
    np.testing.assert_allclose(weights[5:], 1 / (3 * 0.4))


@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0)])
def test_no_sample_of_one_kind_is_refused(n: int, m: int) -> None:
    with pytest.raises(ValueError, match="at least one of each"):
        kulsif_weights(np.zeros((n, 2)), np.zeros((m, 2)), sigma=1.0, regularisation=0.1)
