"""Weighted sums of Gaussian kernels, the form that density ratios take, and their logarithm that cannot underflow."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from fedkd.types import Array

LOG_FLOOR = -1e6  # logarithms end here: what stands below it was not positive
_BLOCK_ROWS = 256  # rows at a time; every block has this size, the last one is padded


def gaussian_kernel(a: Float[Array, "n d"], b: Float[Array, "m d"], *, sigma: float) -> Float[Array, "n m"]:
    """exp(-|a - b|^2 / (2 sigma^2)) in float64, by the matmul form: no (n, m, d) differences."""
    middle = b.mean(axis=0, dtype=np.float64)
    left, right = a - middle, b - middle
    exponent = left @ (2.0 * right.T)
    exponent -= (left * left).sum(axis=1)[:, None]
    exponent -= (right * right).sum(axis=1)
    np.minimum(exponent, 0.0, out=exponent)  # rounding may leave a distance of zero below it
    exponent /= 2.0 * sigma * sigma
    kernel: Array = np.exp(exponent, out=exponent)
    return kernel


def kernel_sum(
    x: Float[Array, "p d"], points: Float[Array, "n d"], weights: Float[Array, " n"], *, sigma: float
) -> tuple[Float[Array, " p"], Float[Array, " p"]]:
    """r(x) = sum_j w_j exp(-|x - c_j|^2 / (2 sigma^2)) as (mantissa, exponent): r = mantissa * e^exponent.

    The exponent is the largest of the row's kernels, so that far rows keep their digits where r itself underflows.
    Float64 throughout, about the mean of the points. Memory: blocks of 256 rows, never (p, n, d). Every block has the
    same shape, the last one padded, so that BLAS goes the same way and a row's value does not depend on its company.

    Raises:
        ValueError: no points, or shapes that do not fit.
    """
    if not len(points) or x.shape[1:] != points.shape[1:] or weights.shape != (len(points),):
        raise ValueError(
            f"x {x.shape}, points {points.shape} and weights {weights.shape} must be (p, d), (n, d) and (n,), n >= 1"
        )
    middle = points.mean(axis=0, dtype=np.float64)
    centered = points - middle
    factor = np.ascontiguousarray((centered / (sigma * sigma)).T)
    half_squares = np.einsum("nd,nd->n", centered, centered) / (2.0 * sigma * sigma)
    mantissa, exponent = np.empty(len(x)), np.empty(len(x))
    rows = np.zeros((_BLOCK_ROWS, x.shape[1]))
    kernel = np.empty((_BLOCK_ROWS, len(points)))
    for start in range(0, len(x), _BLOCK_ROWS):
        part = slice(start, start + _BLOCK_ROWS)
        size = len(x[part])
        np.subtract(x[part], middle, out=rows[:size])
        np.matmul(rows, factor, out=kernel)
        kernel -= half_squares  # the row's own square is the same for every point: it only enters the exponent
        largest = kernel.max(axis=1)
        kernel -= largest[:, None]
        np.exp(kernel, out=kernel)
        mantissa[part] = np.einsum("pn,n->p", kernel, weights)[:size]
        own = np.einsum("pd,pd->p", rows, rows) / (2.0 * sigma * sigma)
        exponent[part] = np.minimum(largest - own, 0.0)[:size]  # rounding may leave a distance of zero above it
    return mantissa, exponent


def log_level(mantissa: Float[Array, " p"], exponent: Float[Array, " p"]) -> Float[Array, " p"]:
    """log r of r = mantissa * e^exponent, as a number that grows with r over the whole line, also at r <= 0.

    r > 0 gives log r, at least LOG_FLOOR. r <= 0, where a logarithm has no value, gives LOG_FLOOR - min(|r|, 1e6).
    """
    positive = mantissa > 0.0
    log = np.log(np.where(positive, mantissa, 1.0)) + exponent
    size = np.minimum(np.abs(mantissa) * np.exp(exponent), -LOG_FLOOR)
    level: Array = np.where(positive, np.maximum(log, LOG_FLOOR), LOG_FLOOR - size)
    return level


def ratio_of(level: Float[Array, " p"]) -> Float[Array, " p"]:
    """The r that `log_level` gave `level` for; it never falls while the level grows, and underflows to 0."""
    positive = np.exp(np.minimum(level, 700.0))
    ratio: Array = np.where(level > LOG_FLOOR, positive, level - LOG_FLOOR)
    return ratio
