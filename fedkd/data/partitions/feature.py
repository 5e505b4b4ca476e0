"""The partition by feature: equal class mixes and sizes, but each client sees its inputs in its own way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from fedkd.checks import check_range
from fedkd.data.partitions.base import Partition, grouped
from fedkd.errors import ConfigError
from fedkd.streams import stream
from fedkd.types import Array, Ids

# Multiples of an irrational number, less their whole part, fill 0..1 evenly. So a client's place in each range needs
# neither the number of clients nor a seed, and stays when others join. Here: the golden ratio, sqrt(2), sqrt(3).
_STEPS = np.array([0.6180339887498949, 0.4142135623730951, 0.7320508075688772])


@dataclass(frozen=True, kw_only=True)
class FeatureConfig:
    """How far the clients' inputs lie apart; 0 leaves a kind of shift out."""

    rotation: float = 45.0  # images are turned by an angle within +- this; degrees, 0..180
    brightness: float = 0.0  # inputs are moved by up to +- this, in standard deviations of the client's inputs; 0..10
    noise: float = 0.0  # Gaussian noise of up to this is added, in standard deviations of the client's inputs; 0..10

    def __post_init__(self) -> None:
        check_range("rotation", self.rotation, low=0.0, high=180.0)
        check_range("brightness", self.brightness, low=0.0, high=10.0)
        check_range("noise", self.noise, low=0.0, high=10.0)


@final
class Feature(Partition):
    """Samples split evenly at random as in `iid`; each client's inputs are turned, brightened or made noisy in its way.

    A client keeps its shift in every run. The global test set is not shifted, so its accuracy is that on plain inputs.
    """

    Config: ClassVar[type] = FeatureConfig

    def __init__(self, config: FeatureConfig) -> None:
        self._config = config

    def assign(self, labels: Array, *, num_clients: int, num_classes: int, rng: np.random.Generator) -> tuple[Ids, ...]:
        """See Partition. The classes play no part."""
        del num_classes
        return grouped(rng.permutation(np.arange(len(labels)) % num_clients), num_clients, "feature")

    def transform(self, client_id: int, x: Array) -> Array:
        """The inputs turned, then moved, then with noise."""
        config = self._config
        rotation, brightness, noise = (0.5 + (client_id + 1) * _STEPS) % 1.0  # each 0..1
        spread = float(x.std())
        if config.rotation:
            x = _rotated(x, (2 * rotation - 1) * config.rotation)
        if config.brightness:
            x = x + np.asarray((2 * brightness - 1) * config.brightness * spread, x.dtype)
        if config.noise:
            rng = stream(0, "feature-noise", client=client_id)  # the shift is the client's, whatever the run's seed
            x = x + rng.standard_normal(x.shape, np.float32) * np.asarray(noise * config.noise * spread, x.dtype)
        return x


def _rotated(x: Array, angle: float) -> Array:
    """Images x (n, c, h, w) turned by `angle` degrees about their centre, the border continued outwards."""
    from scipy import ndimage

    if x.ndim != 4:
        raise ConfigError(
            f"partition.rotation turns images (n, c, h, w), but the inputs have shape {x.shape}; set it to 0 and use "
            "partition.brightness or partition.noise",
            key="partition.rotation",
        )
    turned: Array = ndimage.rotate(x, angle, axes=(2, 3), reshape=False, order=1, mode="nearest")
    return turned
