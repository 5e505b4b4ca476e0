"""Distance to the nearest centre, and the density that it stands for."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from fedkd.types import Array

_BLOCK_VALUES = 1 << 19  # float64 values that one temporary of a block may hold: 4 MiB


def nearest_distance(x: Float[Array, "p d"], centers: Float[Array, "k d"]) -> Float[Array, " p"]:
    """Euclidean distance (p,) of each row to the nearest of the centres, float64.

    The quick form |x|^2 - 2 x.c + |c|^2 loses all digits near distance zero, so it only ranks the centres; the distance
    is then taken from the difference. Rows whose best centres are too close to call are compared by difference too.
    So the result is exact to rounding, and a row's value depends on that row alone, whatever it is scored with.

    Raises:
        ValueError: no centres, or another number of features than the centres have.
    """
    if not len(centers) or x.shape[1] != centers.shape[1]:
        raise ValueError(f"x {x.shape} and centers {centers.shape} must be (p, d) and (k, d) with k >= 1")
    centers = centers.astype(np.float64)
    nearest = np.empty(len(x))
    block = max(1, _BLOCK_VALUES // max(centers.shape))
    for start in range(0, len(x), block):
        rows = x[start : start + block].astype(np.float64)
        nearest[start : start + block] = _nearest(rows, centers)
    return nearest


def _nearest(rows: Float[Array, "p d"], centers: Float[Array, "k d"]) -> Float[Array, " p"]:
    squares = (centers * centers).sum(axis=1)
    rank = rows @ (-2.0 * centers.T)
    rank += squares  # |x|^2 is the same for every centre
    best = rank.argmin(axis=1)
    nearest = _length(rows - centers[best])
    largest = float(squares.max())
    scale = np.sqrt((rows * rows).sum(axis=1) * largest) + largest
    slack = 4.0 * (rows.shape[1] + 2) * np.finfo(np.float64).eps * scale  # what rounding may have added to `rank`
    close = np.flatnonzero((rank <= (rank.min(axis=1) + slack)[:, None]).sum(axis=1) > 1)
    for center in centers if len(close) else ():
        nearest[close] = np.minimum(nearest[close], _length(rows[close] - center))
    return nearest


def _length(difference: Float[Array, "p d"]) -> Float[Array, " p"]:
    length: Array = np.sqrt((difference * difference).sum(axis=1))
    return length


def density_surrogate(distance: Float[Array, " p"], bandwidth: float) -> Float[Array, " p"]:
    """exp(-d^2 / (2 h^2)), 0..1: the density of a Gaussian bump of width h = `bandwidth` on each centre, peak 1.

    It falls to 0 beyond some 38 h, where float64 ends. The limit at h = 0 is 1 at distance 0 and 0 elsewhere.
    """
    if bandwidth == 0.0:
        density: Array = np.where(distance == 0.0, 1.0, 0.0)
    else:
        density = np.exp(-0.5 * (distance / bandwidth) ** 2)
    return density
