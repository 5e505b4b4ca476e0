"""Lloyd's KMeans in torch, for clients with a GPU. The same code runs on the CPU, where scikit-learn is faster."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedkd.errors import ConfigError
from fedkd.types import Array

_BLOCK_VALUES = 1 << 24  # distances computed at a time


def torch_centers(x: Array, k: int, *, rng: np.random.Generator, max_iter: int, tol: float, device: str) -> Array:
    """Centroids (at most k, d) by k-means++ and Lloyd's steps on `device`; those without a sample are dropped.

    A centroid that loses all samples stays where it is. Sums go through a matrix product, not through atomic additions,
    so the same seed gives the same centroids on the same device. Draws come from `rng`, not from torch.

    Args:
        tol: stop once the centroids moved less, as a share of the mean variance of the features.

    Raises:
        ConfigError: the device is not there. There is no silent way back to the CPU.
    """
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "is 'cuda', but torch sees no GPU; set filter.algorithm = 'auto' to use the CPU", key="device"
        )
    data = torch.as_tensor(np.ascontiguousarray(x), device=device)
    data = data if data.dtype == torch.float64 else data.float()
    middle = data.mean(dim=0)
    data = data - middle  # rounding is least about the mean
    limit = tol * float(data.var(dim=0, unbiased=False).mean())
    centers = _plus_plus(data, min(k, len(data)), rng)
    for _ in range(max_iter):
        labels = _nearest(data, centers)[1]
        counts, sums = _sums(data, labels, len(centers))
        moved = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], centers)
        shift = float(((moved - centers) ** 2).sum())
        centers = moved
        if shift <= limit:
            break
    used = torch.unique(_nearest(data, centers)[1])
    found: Array = (centers[used] + middle).cpu().numpy().astype(x.dtype, copy=False)
    return found


def _plus_plus(data: Tensor, k: int, rng: np.random.Generator) -> Tensor:
    """k-means++: each next start is drawn with probability in proportion to the squared distance to those there are.

    Of 2 + log k draws the one that leaves the least sum of squares is taken, as scikit-learn does.
    """
    chosen = [int(rng.integers(len(data)))]
    squares = _squares_to(data, data[chosen])[:, 0]
    while len(chosen) < k:
        cumulative = squares.double().cumsum(0)
        draws = torch.as_tensor(rng.random(2 + int(np.log(k))), device=data.device) * cumulative[-1]
        candidates = torch.searchsorted(cumulative, draws, right=True).clamp_max(len(data) - 1)
        left = torch.minimum(squares[:, None], _squares_to(data, data[candidates]))
        best = int(left.double().sum(dim=0).argmin())
        chosen.append(int(candidates[best]))
        squares = left[:, best]
    return data[chosen]


def _squares_to(data: Tensor, points: Tensor) -> Tensor:
    """Squared distances (n, k) from the differences, so that a point is at distance 0 from itself."""
    return torch.stack([((data - point) ** 2).sum(dim=1) for point in points], dim=1)


def _nearest(data: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Rank value and index (n,) of the nearest centre of each row."""
    squares = (centers * centers).sum(dim=1)
    found = [
        (squares - 2.0 * rows @ centers.T).min(dim=1)
        for rows in torch.split(data, max(1, _BLOCK_VALUES // len(centers)))
    ]
    return torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])


def _sums(data: Tensor, labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Number (k,) and sum (k, d) of the rows of each label."""
    counts = torch.zeros(k, dtype=data.dtype, device=data.device)
    sums = torch.zeros(k, data.shape[1], dtype=data.dtype, device=data.device)
    index = torch.arange(k, device=data.device)
    size = max(1, _BLOCK_VALUES // k)
    for rows, part in zip(torch.split(data, size), torch.split(labels, size), strict=True):
        member = (part == index[:, None]).to(data.dtype)
        counts += member.sum(dim=1)
        sums += member @ rows
    return counts, sums
