"""Real images for the filters' checks, in the setting of the EdgeFD specification's probe."""

from __future__ import annotations

import functools
import gzip
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from fedkd.data.base import Samples
from fedkd.filters.base import Filter
from fedkd.types import Array, Ids

FIT, HOLDOUT, PER_CLASS = 1000, 500, 150
MOMENTS = {"MNIST": (0.1307, 0.3081), "FashionMNIST": (0.2860, 0.3530)}


@dataclass(frozen=True, eq=False)
class Client:
    """The classes that a client owns, and its private samples."""

    classes: tuple[int, ...]
    fit: Samples
    holdout: Samples


@dataclass(frozen=True, eq=False)
class Setting:
    """Ten clients and a proxy set of 150 samples per class, none of them private."""

    proxy: Samples
    labels: Array
    clients: tuple[Client, ...]

    def margins(self, make: Callable[[], Filter], proxy: Samples | None = None) -> Array:
        """Margins (m, p) of every client's filter."""
        offered = proxy or self.proxy
        return np.stack([make().fit(each.fit).calibrate(each.holdout).margin(offered) for each in self.clients])

    def rates(self, make: Callable[[], Filter]) -> tuple[float, float]:
        """Mean share of own and of foreign proxy samples that a client accepts."""
        accepted = self.margins(make) >= 0
        own = np.stack([np.isin(self.labels, each.classes) for each in self.clients])
        return (
            float(np.mean([mask[is_own].mean() for mask, is_own in zip(accepted, own, strict=True)])),
            float(np.mean([mask[~is_own].mean() for mask, is_own in zip(accepted, own, strict=True)])),
        )


@functools.cache
def real_images(name: str) -> tuple[Array, Array]:
    """Training images (n, 784) as bytes and labels; the test is skipped where the files are not here.

    They lie in $FEDKD_TEST_DATA, or in shared/data beside the checkout.
    """
    root = Path(os.environ.get("FEDKD_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
    folder = root / name / "raw"
    if not folder.is_dir():
        pytest.skip(f"the real data are not here: no {name}/raw; set FEDKD_TEST_DATA to their folder")
    images = gzip.decompress((folder / "train-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / "train-labels-idx1-ubyte.gz").read_bytes())
    return np.frombuffer(images, np.uint8, offset=16).reshape(-1, 784), np.frombuffer(labels, np.uint8, offset=8)


def samples(name: str, ids: Ids) -> Samples:
    """Normalised pixels."""
    images, labels = real_images(name)
    mean, sd = MOMENTS[name]
    return Samples(((images[ids] / np.float32(255) - mean) / sd).astype(np.float32), labels[ids].astype(np.int64))


@functools.cache
def setting(name: str, split: str = "strong", *, seed: int = 1) -> Setting:
    """Strong: each client owns one class. Iid: each has a tenth of every class."""
    labels, rng = real_images(name)[1], np.random.default_rng(seed)
    order = [rng.permutation(np.flatnonzero(labels == label)) for label in range(10)]
    proxy = np.concatenate([ids[:PER_CLASS] for ids in order])
    rest = [ids[PER_CLASS:] for ids in order]
    clients = []
    mixed = rng.permutation(np.concatenate(rest))
    for client in range(10):
        size = FIT + HOLDOUT
        ids = rest[client][:size] if split == "strong" else mixed[client * size : (client + 1) * size]
        classes = (client,) if split == "strong" else tuple(range(10))
        clients.append(Client(classes, samples(name, ids[:FIT]), samples(name, ids[FIT:])))
    public = samples(name, proxy)
    return Setting(Samples(public.x), public.labels, tuple(clients))
