"""The proxy set as a client sees it, and the configuration of how it comes about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedkd.checks import check_choice, check_range
from fedkd.data.base import Samples
from fedkd.errors import ConfigError
from fedkd.types import Array, Ids, Mask


@dataclass(frozen=True, kw_only=True)
class ProxyConfig:
    """How the proxy set comes about."""

    paths: ClassVar[frozenset[str]] = frozenset({"root"})

    name: str = "contributed"  # contributed: from the clients' own data; external: another data set; none
    data: str = ""  # of external: the data set's name, as in data.name
    root: str = ""  # of external: where it lies; "" takes data.root
    max_samples: int = 0  # of external: a fixed draw of so many; 0 takes all
    fraction: float = 0.1  # alpha: the share of its private samples that a client contributes; 0..1
    keep_private: bool = False  # true: contributed samples also stay in the private training set
    per_round: int = 0  # proxy samples asked for in each round; 0 asks for all
    diagnostics: bool = True  # contribute labels too, for the coordinator's purity and teacher accuracy alone

    def __post_init__(self) -> None:
        check_choice("name", self.name, ("contributed", "external", "none"))
        check_range("max_samples", self.max_samples, low=0)
        if (self.name == "external") != bool(self.data):
            raise ConfigError(
                f"is {self.data!r}, but proxy.name is {self.name!r}; an external proxy set needs the name of a data "
                "set, and only it has one",
                key="data",
            )
        check_range("fraction", self.fraction, above=0.0, below=1.0)
        check_range("per_round", self.per_round, low=0)


@dataclass(frozen=True, eq=False, kw_only=True)
class Proxy:
    """The shared set in its fixed order, with what this one client knows about it.

    Attributes:
        samples: inputs x (p, ...); y is None except for the oracle filter.
        version: digest of the inputs; both sides refuse to mix versions.
        own_ids: samples that this client contributed, ascending. Known to this client alone.
        accepted: (p,) mask of the samples that the client's filter accepts.
        weight: (p,) weights of the filter's rule `soft`; None where it says yes or no.
        asked: sample ids that the server asks for in this round, ascending.
        rows_per_sample: rows that one sample makes (1 for an image, H*W for a segmentation map, T for a sequence).
        valid: (p, rows_per_sample) mask of the rows that count; None where all of them do.
    """

    samples: Samples
    version: str
    own_ids: Ids
    accepted: Mask
    asked: Ids
    weight: Array | None = None
    rows_per_sample: int = 1
    valid: Mask | None = None

    @property
    def x(self) -> Array:
        """Inputs (p, ...)."""
        return self.samples.x

    def __len__(self) -> int:
        return len(self.samples)

    def row_ids(self, sample_ids: Ids) -> Ids:
        """Ids of all rows of these samples that count, sample by sample."""
        return row_ids(sample_ids, self.rows_per_sample, self.valid)


def row_ids(sample_ids: Ids, rows_per_sample: int, valid: Mask | None = None) -> Ids:
    """Row ids `sample_id * rows_per_sample + position` of samples, without those whose mask (p, positions) is false."""
    ids: Ids = (sample_ids[:, None] * rows_per_sample + np.arange(rows_per_sample)).reshape(-1)
    return ids if valid is None else ids[valid[sample_ids].reshape(-1)]
