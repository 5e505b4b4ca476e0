"""Distance to the nearest centre, and the density that it stands for."""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Float

from fedkd.types import Array

LOWEST_MARGIN = -1e6  # margins end here: finite, and exact in float32
_BLOCK_BYTES = 1 << 20  # one temporary of a block: small enough to stay in a core's cache
_SMALLEST = 2.0**-100  # squares below it, or beyond float32, are taken again in float64


def nearest_distance(
    x: Float[Array, "p d"], centers: Float[Array, "k d"], *, scale: Float[Array, " k"] | None = None
) -> Float[Array, " p"]:
    """Euclidean distance (p,) of each row to the nearest of the centres, float64; with `scale` min_j d_j / scale_j.

    The quick form |x|^2 - 2 x.c + |c|^2 loses all digits near distance zero, so it only ranks the centres; the distance
    is then taken from the difference. Rows whose best centres are too close to call are compared by difference too.
    So the result is right to rounding, and a row's value depends on that row alone, whatever it is scored with.

    Two float32 arrays are compared in float32 (relative error some 1e-6), any others in float64.

    Args:
        scale: divisors (k,) of the distances, greater than 0. Centre by centre: some k/2 times the work.

    Raises:
        ValueError: no centres, or another number of features than the centres have.
    """
    if not len(centers) or x.shape[1] != centers.shape[1]:
        raise ValueError(f"x {x.shape} and centers {centers.shape} must be (p, d) and (k, d) with k >= 1")
    if scale is not None:
        each = (nearest_distance(x, centers[j : j + 1]) / scale[j] for j in range(len(centers)))
        return functools.reduce(np.minimum, each)
    dtype = np.result_type(x.dtype, centers.dtype, np.float32)
    centers = centers.astype(dtype, copy=False)
    squares = np.empty(len(x), dtype)
    # Overflow and 0 * inf are found in the squares.
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        block = max(1, _BLOCK_BYTES // (dtype.itemsize * max(centers.shape)))
        ranking = _Ranking(centers, min(block, len(x)))
        for start in range(0, len(x), block):
            rows = x[start : start + block].astype(dtype, copy=False)
            squares[start : start + block] = ranking.squares(rows)
    nearest = np.sqrt(squares.astype(np.float64))
    if dtype == np.float32:
        again = np.flatnonzero(~((squares >= _SMALLEST) & (squares < np.inf)))
        if len(again):
            nearest[again] = nearest_distance(x[again].astype(np.float64), centers.astype(np.float64))
    return nearest


class _Ranking:
    """Orders centres by |x|^2 - 2 x.c + |c|^2 without |x|^2, about the mean of the centres, where rounding is least."""

    def __init__(self, centers: Float[Array, "k d"], block: int) -> None:
        exact = centers.astype(np.float64, copy=False)
        middle = exact.mean(axis=0)
        spread = exact - middle
        constants = 2.0 * (spread @ middle) + (spread * spread).sum(axis=1)
        self._centers = centers
        self._difference = np.empty((block, centers.shape[1]), centers.dtype)
        self._factor = np.ascontiguousarray((-2.0 * spread.T).astype(centers.dtype))
        self._constants = constants.astype(centers.dtype)
        self._lengths = np.sqrt((exact * exact).sum(axis=1))
        self._reach = float(np.sqrt((spread * spread).sum(axis=1)).max())
        self._largest = float(np.abs(constants).max())

    def squares(self, rows: Float[Array, "p d"]) -> Float[Array, " p"]:
        """Squared distance to the nearest centre; not finite where the order cannot be told."""
        rank = rows @ self._factor
        rank += self._constants
        best = rank.argmin(axis=1)
        difference = self._difference[: len(rows)]
        np.take(self._centers, best, axis=0, out=difference, mode="clip")
        np.subtract(rows, difference, out=difference)
        squares = _squares(difference)
        if len(self._constants) == 1:
            return squares
        # |x| <= |c| + |x - c|; twice what rounding may have added to a dot product of `width` terms, and some more.
        width, eps = rows.shape[1], float(np.finfo(rows.dtype).eps)
        slack = 2.0 * (width + 8) * eps * ((self._lengths[best] + np.sqrt(squares)) * self._reach + self._largest)
        near = rank <= (rank[np.arange(len(rows)), best] + slack)[:, None]
        close = np.flatnonzero(np.count_nonzero(near, axis=1) > 1)
        if len(close):
            for j in np.flatnonzero(near[close].any(axis=0)):
                picked = close[near[close, j]]
                squares[picked] = np.minimum(squares[picked], _squares(rows[picked] - self._centers[j]))
        if not np.isfinite(rank.sum()):
            squares[~np.isfinite(rank).all(axis=1)] = np.inf
        return squares


def _squares(difference: Float[Array, "p d"]) -> Float[Array, " p"]:
    squares: Array = np.einsum("ij,ij->i", difference, difference)  # row by row, so the company changes nothing
    return squares


def density_surrogate(distance: Float[Array, " p"], bandwidth: float) -> Float[Array, " p"]:
    """exp(-d^2 / (2 h^2)), 0..1: the density of a Gaussian bump of width h = `bandwidth` on each centre, peak 1.

    It falls to 0 beyond some 38 h, where float64 ends. The limit at h = 0 is 1 at distance 0 and 0 elsewhere.
    """
    if bandwidth == 0.0:
        density: Array = np.where(distance == 0.0, 1.0, 0.0)
    else:
        with np.errstate(over="ignore", under="ignore"):
            density = np.exp(-0.5 * (distance / bandwidth) ** 2)
    return density


def distance_margin(distance: Float[Array, " p"], reach: float) -> Float[Array, " p"]:
    """1 - d / T, at least -1e6: 1 on a centre, 0 at the threshold T = `reach`, below 0 beyond it.

    The limit at T = 0 is 1 at distance 0 and -1e6 elsewhere.
    """
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        relative = np.where(distance == 0.0, 0.0, distance / reach)
    margin: Array = 1.0 - np.minimum(relative, 1.0 - LOWEST_MARGIN)
    return margin
