"""uLSIF and RuLSIF: the density ratio by least squares on few kernel centres, chosen by closed-form leave-one-out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from fedkd.functional.kernel_density import gaussian_kernel
from fedkd.types import Array

# Grids of the choice: kernel widths as multiples of the median distance from a known sample to a centre.
WIDTHS = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0)
REGULARISATIONS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)


class UlsifChoice(NamedTuple):
    """A kernel width and a regularisation, and what leave-one-out says of them (lower is better)."""

    sigma: float
    regularisation: float
    loss: float


def ulsif_weights(
    auxiliary: Float[Array, "n d"],
    known: Float[Array, "m d"],
    centers: Float[Array, "b d"],
    *,
    sigma: float,
    regularisation: float,
    alpha: float = 0.0,
) -> Float[Array, " b"]:
    """Weights (b,) >= 0 of r(x) = sum_l theta_l exp(-|x - c_l|^2 / (2 sigma^2)).

    theta = max(0, (H + lambda I)^-1 h), H = alpha E_p[psi psi^T] + (1 - alpha) E_q[psi psi^T], h = E_p[psi], with p the
    density of `known` and q that of `auxiliary`. alpha = 0 is uLSIF, r = p / q (Kanamori, Hido, Sugiyama 2009);
    0 < alpha < 1 is RuLSIF, r = p / (alpha p + (1 - alpha) q) <= 1 / alpha (Yamada et al. 2011). Deviation: none.

    Raises:
        ValueError: no auxiliary, known or centre sample.
    """
    psi, phi = _features(auxiliary, known, centers, sigma)
    matrix = alpha * (phi @ phi.T) / phi.shape[1] + (1.0 - alpha) * (psi @ psi.T) / psi.shape[1]
    return np.maximum(_solve(matrix, regularisation, phi.mean(axis=1)), 0.0)


def leave_one_out_loss(
    auxiliary: Float[Array, "n d"],
    known: Float[Array, "m d"],
    centers: Float[Array, "b d"],
    *,
    sigma: float,
    regularisation: float,
    alpha: float = 0.0,
) -> float:
    """Mean over pairs of alpha/2 r(v)^2 + (1-alpha)/2 r(u)^2 - r(v), where r was fitted without that pair u, v.

    Pair i is auxiliary sample i and known sample i, for i below min(n, m). Leaving a pair out changes the matrix by
    rank two, so one factorisation serves all pairs (Woodbury); with alpha = 0 this is the closed form of uLSIF.

    Raises:
        ValueError: fewer than two auxiliary or known samples, or no centre.
    """
    psi, phi = _features(auxiliary, known, centers, sigma)
    return _loss(psi, phi, regularisation, alpha)


def choose_ulsif(
    auxiliary: Float[Array, "n d"],
    known: Float[Array, "m d"],
    centers: Float[Array, "b d"],
    *,
    sigmas: Sequence[float],
    regularisations: Sequence[float] = REGULARISATIONS,
    alpha: float = 0.0,
) -> UlsifChoice:
    """The pair of the grid with the least leave-one-out loss; of equals the first."""
    best = UlsifChoice(sigmas[0], regularisations[0], np.inf)
    for sigma in sigmas:
        psi, phi = _features(auxiliary, known, centers, sigma)
        for regularisation in regularisations:
            loss = _loss(psi, phi, regularisation, alpha)
            if loss < best.loss:
                best = UlsifChoice(sigma, regularisation, loss)
    return best


def median_distance(x: Float[Array, "p d"], centers: Float[Array, "b d"]) -> float:
    """Root of the median squared distance between rows and centres, equal pairs left out; 1 where all are equal."""
    middle = centers.mean(axis=0, dtype=np.float64)
    left, right = x - middle, centers - middle
    squares = (left * left).sum(axis=1)[:, None] + (right * right).sum(axis=1) - 2.0 * left @ right.T
    different = squares[squares > 1e-9 * squares.max(initial=0.0)]
    return float(np.sqrt(np.median(different))) if len(different) else 1.0


def _features(auxiliary: Array, known: Array, centers: Array, sigma: float) -> tuple[Array, Array]:
    """psi (b, n) of the auxiliary and phi (b, m) of the known samples."""
    if not len(auxiliary) or not len(known) or not len(centers):
        raise ValueError(
            f"{len(auxiliary)} auxiliary samples, {len(known)} known ones and {len(centers)} centres; "
            "uLSIF needs at least one of each"
        )
    return gaussian_kernel(centers, auxiliary, sigma=sigma), gaussian_kernel(centers, known, sigma=sigma)


def _solve(matrix: Array, regularisation: float, target: Array) -> Array:
    from scipy.linalg import solve

    ridged = matrix.copy()
    ridged[np.diag_indices(len(matrix))] += regularisation
    solved: Array = solve(ridged, target, assume_a="pos")
    return solved


def _loss(psi: Array, phi: Array, regularisation: float, alpha: float) -> float:
    n, m = psi.shape[1], phi.shape[1]
    if min(n, m) < 2:
        raise ValueError(f"{n} auxiliary and {m} known samples; leaving one out needs at least two of each")
    pairs = min(n, m)
    # The matrix without pair i is M_i = B - U_i U_i^T, with U_i the pair's two scaled feature vectors.
    matrix = (alpha / (m - 1)) * (phi @ phi.T) + ((1.0 - alpha) / (n - 1)) * (psi @ psi.T)
    first = np.sqrt(alpha / (m - 1)) * phi[:, :pairs]
    second = np.sqrt((1.0 - alpha) / (n - 1)) * psi[:, :pairs]
    mean = phi.mean(axis=1)
    solved = _solve(matrix, regularisation, np.column_stack([mean, phi[:, :pairs], first, second]))
    target = (m * solved[:, :1] - solved[:, 1 : pairs + 1]) / (m - 1)  # B^-1 h_i, h_i the mean without pair i
    over_first, over_second = solved[:, pairs + 1 : 2 * pairs + 1], solved[:, 2 * pairs + 1 :]
    # (I - U^T B^-1 U)^-1 U^T B^-1 h_i, a 2x2 system per pair.
    a = 1.0 - (first * over_first).sum(axis=0)
    b = -(first * over_second).sum(axis=0)
    c = 1.0 - (second * over_second).sum(axis=0)
    right_first, right_second = (first * target).sum(axis=0), (second * target).sum(axis=0)
    determinant = a * c - b * b
    theta = target + over_first * ((c * right_first - b * right_second) / determinant)
    theta += over_second * ((a * right_second - b * right_first) / determinant)
    theta = np.maximum(theta, 0.0)
    on_known, on_auxiliary = (theta * phi[:, :pairs]).sum(axis=0), (theta * psi[:, :pairs]).sum(axis=0)
    losses = 0.5 * alpha * on_known**2 + 0.5 * (1.0 - alpha) * on_auxiliary**2 - on_known
    return float(losses.mean())
