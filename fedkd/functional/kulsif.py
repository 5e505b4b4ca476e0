"""KuLSIF: the density ratio p(x) / q(x) by kernel least squares, as a weighted sum of kernels on all samples."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from fedkd.functional.kernel_density import gaussian_kernel
from fedkd.types import Array


def kulsif_weights(
    auxiliary: Float[Array, "n d"],
    known: Float[Array, "m d"],
    *,
    sigma: float,
    regularisation: float,
    compat: bool = False,
) -> Float[Array, " n+m"]:
    """Weights (n + m,) of r(x) = sum_j w_j k(x, c_j) on the auxiliary samples u ~ q, then on the known ones v ~ p.

    alpha = -(1 / (n m lambda)) (K11 / n + lambda I)^-1 K12 1_m on u, 1 / (m lambda) on v, with K11 = k(u, u) and
    K12 = k(u, v). Solved by Cholesky, since K11 / n + lambda I is positive definite.

    Paper: Kanamori, Suzuki, Sugiyama 2012; used by Selective-FD (Shao et al. 2024). Deviation: none.

    Args:
        regularisation: lambda, > 0.
        compat: multiply by the matrix where the solution needs its inverse. That is what the code published with
            Selective-FD computes; its values are wrong by a factor, and for wide kernels its order too.

    Raises:
        ValueError: no auxiliary or no known sample.
    """
    n, m = len(auxiliary), len(known)
    if not n or not m:
        raise ValueError(f"{n} auxiliary and {m} known samples; KuLSIF needs at least one of each")
    matrix = gaussian_kernel(auxiliary, auxiliary, sigma=sigma) / n
    matrix[np.diag_indices(n)] += regularisation
    target = gaussian_kernel(auxiliary, known, sigma=sigma).sum(axis=1)
    if compat:
        solved = matrix @ target
    else:
        from scipy.linalg import solve

        solved = solve(matrix, target, assume_a="pos")
    alpha = -solved / (n * m * regularisation)
    return np.concatenate([alpha, np.full(m, 1.0 / (m * regularisation))])
