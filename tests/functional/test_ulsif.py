"""uLSIF and RuLSIF against densities that are known, and leave-one-out against leaving out one by one."""

import numpy as np
import pytest

from fedkd.functional.kernel_density import kernel_sum
from fedkd.functional.ulsif import (
    REGULARISATIONS,
    WIDTHS,
    choose_ulsif,
    leave_one_out_loss,
    median_distance,
    ulsif_weights,
)
from fedkd.types import Array

GRID = np.linspace(-4, 4, 161)[:, None]
TRUE = 2.0 * np.exp(-(GRID[:, 0] ** 2) / 2 + GRID[:, 0] ** 2 / 8)  # N(0, 1) over N(0, 2^2)


def ratio(x: Array, centers: Array, weights: Array, sigma: float) -> Array:
    mantissa, exponent = kernel_sum(x, centers, weights, sigma=sigma)
    values: Array = mantissa * np.exp(exponent)
    return values


def naive_weights(auxiliary: Array, known: Array, centers: Array, sigma: float, ridge: float, alpha: float) -> Array:
    def features(x: Array) -> Array:
        squares = ((x[:, None] - centers[None]) ** 2).sum(axis=2)
        values: Array = np.exp(-squares / (2 * sigma**2))
        return values

    psi, phi = features(auxiliary), features(known)
    matrix = sum(alpha * np.outer(v, v) / len(phi) for v in phi) + sum(
        (1 - alpha) * np.outer(u, u) / len(psi) for u in psi
    )
    theta = np.linalg.inv(matrix + ridge * np.eye(len(centers))) @ phi.mean(axis=0)
    return np.maximum(theta, 0)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_weights_agree_with_a_plain_reading_of_the_equations(alpha: float) -> None:
    rng = np.random.default_rng(0)
    auxiliary, known = rng.uniform(-3, 3, (11, 2)), rng.normal(size=(8, 2))
    weights = ulsif_weights(auxiliary, known, known[:5], sigma=0.9, regularisation=0.2, alpha=alpha)
    np.testing.assert_allclose(weights, naive_weights(auxiliary, known, known[:5], 0.9, 0.2, alpha), rtol=1e-9)
    assert (weights >= 0).all()


@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize(("n", "m"), [(9, 9), (12, 7), (6, 14)])
def test_the_closed_form_is_leaving_out_one_by_one(n: int, m: int, alpha: float) -> None:
    rng = np.random.default_rng(n)
    auxiliary, known, centers = rng.uniform(-3, 3, (n, 2)), rng.normal(size=(m, 2)), rng.normal(size=(5, 2))
    losses = []
    for i in range(min(n, m)):
        fewer = np.delete(auxiliary, i, axis=0), np.delete(known, i, axis=0)
        theta = naive_weights(*fewer, centers, 1.1, 0.1, alpha)
        on_known, on_auxiliary = (float(ratio(x[i : i + 1], centers, theta, 1.1)[0]) for x in (known, auxiliary))
        losses.append(alpha / 2 * on_known**2 + (1 - alpha) / 2 * on_auxiliary**2 - on_known)
    loss = leave_one_out_loss(auxiliary, known, centers, sigma=1.1, regularisation=0.1, alpha=alpha)
    assert loss == pytest.approx(np.mean(losses), rel=1e-9)


@pytest.mark.parametrize("seed", range(1, 4))
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_the_chosen_ratio_of_two_known_gaussians(seed: int, alpha: float) -> None:
    rng = np.random.default_rng(seed)
    known, auxiliary = rng.normal(size=(500, 1)), 2.0 * rng.normal(size=(500, 1))
    centers = known[:100]
    sigmas = [width * median_distance(known, centers) for width in WIDTHS]
    chosen = choose_ulsif(auxiliary, known, centers, sigmas=sigmas, alpha=alpha)
    weights = ulsif_weights(
        auxiliary, known, centers, sigma=chosen.sigma, regularisation=chosen.regularisation, alpha=alpha
    )
    estimate, true = ratio(GRID, centers, weights, chosen.sigma), TRUE / (alpha * TRUE + 1 - alpha)
    assert np.corrcoef(estimate, true)[0, 1] > 0.98
    assert np.abs(estimate - true).max() < 0.5


def test_the_choice_has_the_least_loss_of_the_grid() -> None:
    rng = np.random.default_rng(0)
    auxiliary, known = rng.uniform(-4, 4, (60, 1)), rng.normal(size=(80, 1))
    chosen = choose_ulsif(auxiliary, known, known[:20], sigmas=[0.1, 0.7, 5.0])
    losses = {
        (sigma, ridge): leave_one_out_loss(auxiliary, known, known[:20], sigma=sigma, regularisation=ridge)
        for sigma in (0.1, 0.7, 5.0)
        for ridge in REGULARISATIONS
    }
    assert chosen.loss == min(losses.values()) == losses[chosen.sigma, chosen.regularisation]
    assert chosen.sigma == 0.7


def test_the_median_leaves_out_equal_pairs() -> None:
    x = np.array([[0.0], [0.0], [3.0], [4.0]])
    assert median_distance(x, np.array([[0.0]])) == pytest.approx(np.sqrt((3.0**2 + 4.0**2) / 2))  # of the squares
    assert median_distance(x[:2], x[:1]) == 1.0


def test_too_few_samples_are_refused() -> None:
    one, two = np.zeros((1, 2)), np.zeros((2, 2))
    with pytest.raises(ValueError, match="at least one of each"):
        ulsif_weights(one[:0], one, one, sigma=1.0, regularisation=0.1)
    with pytest.raises(ValueError, match="at least two of each"):
        leave_one_out_loss(two, one, one, sigma=1.0, regularisation=0.1)
