"""An own cache for every test, small files in the forms that loaders read, and the real data where they are."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from PIL import Image

from fedkd.types import Array

WriteMnist: TypeAlias = Callable[..., Path]
WriteImage: TypeAlias = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Decoded arrays land in the test's folder."""
    monkeypatch.setenv("FEDKD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def write_mnist(tmp_path: Path) -> WriteMnist:
    """Writes four IDX files as MNIST has them, 30 + 20 images, and returns the root; equal arrays at each call."""

    def write(title: str = "MNIST", *, packed: bool = True, sub: str = "raw", root: Path = tmp_path / "data") -> Path:
        folder = root / title / sub
        folder.mkdir(parents=True, exist_ok=True)
        for part, x, y in (("train", *digits_like(30, seed=1)), ("t10k", *digits_like(20, seed=2))):
            for name, array in ((f"{part}-images-idx3-ubyte", x), (f"{part}-labels-idx1-ubyte", y)):
                data = idx(array)
                (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(data) if packed else data)
        return root

    return write


@pytest.fixture
def images() -> Callable[..., tuple[Array, Array]]:
    """Random grey 28x28 bytes with labels, as `write_mnist` writes them."""
    return digits_like


@pytest.fixture
def to_idx() -> Callable[[Array], bytes]:
    """The bytes of an IDX file."""
    return idx


@pytest.fixture
def encode() -> Callable[[Array], bytes]:
    """The PNG of an image (h, w) or (h, w, 3) uint8."""
    return png


@pytest.fixture
def write_image(tmp_path: Path) -> WriteImage:
    """Writes one image of a given size and value under the test's folder and returns its path."""

    def write(name: str, *, size: tuple[int, int] = (6, 6), value: Any = 100, mode: str = "L") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size, value).save(path)
        return path

    return write


@pytest.fixture(scope="session")
def real_root(repo_root: Path) -> Path:
    """The folder of the real data: $FEDKD_TEST_DATA, or shared/data beside the checkout."""
    root = Path(os.environ.get("FEDKD_TEST_DATA") or repo_root.parent / "shared" / "data")
    if not root.is_dir():
        pytest.skip("the real data are not here; set FEDKD_TEST_DATA to their folder")
    return root


def digits_like(count: int, *, seed: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 28, 28), np.uint8), (np.arange(count) % 10).astype(np.uint8)


def idx(array: Array) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def png(image: Array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
