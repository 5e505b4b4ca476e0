"""KMeans by whatever suits: scikit-learn on the CPU, mini-batches where the data are large, torch on a GPU."""

from __future__ import annotations

import warnings

import numpy as np

from fedkd.types import Array

MINIBATCH_ROWS = 1024  # rows of one mini-batch


def lloyd_centers(x: Array, k: int, *, seed: int, max_iter: int, tol: float, overwrite: bool = False) -> Array:
    """Centroids (at most k, d) by k-means++ and Lloyd's steps; those that no sample is closest to are dropped.

    Args:
        overwrite: x may be changed, which saves the memory of a copy.
    """
    from sklearn.cluster import KMeans

    model = KMeans(
        min(k, len(x)),
        init="k-means++",
        n_init=1,
        algorithm="lloyd",
        max_iter=max_iter,
        tol=tol,
        random_state=seed,
        copy_x=not overwrite,
    )
    return _fitted(model, x)


def minibatch_centers(x: Array, k: int, *, seed: int, max_iter: int) -> Array:
    """The same by MiniBatchKMeans: about as good, in a fraction of the time and memory where x is long.

    Args:
        max_iter: passes over the data at most; it stops once ten batches in a row bring nothing.
    """
    from sklearn.cluster import MiniBatchKMeans

    model = MiniBatchKMeans(
        min(k, len(x)), init="k-means++", n_init=1, batch_size=MINIBATCH_ROWS, max_iter=max_iter, random_state=seed
    )
    return _fitted(model, x)


def _fitted(model: object, x: Array) -> Array:
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    # One thread: with several, the order of summation and so the centroids would change from run to run.
    with threadpool_limits(1), warnings.catch_warnings():
        # It says that some centroids got no sample, since samples are equal. Those centroids are dropped here.
        warnings.filterwarnings("ignore", category=ConvergenceWarning)
        model.fit(x)  # type: ignore[attr-defined]
    centers: Array = model.cluster_centers_[np.unique(model.labels_)]  # type: ignore[attr-defined]
    return centers
