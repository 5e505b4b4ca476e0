"""How the training samples are dealt to the clients. The table of names is `fedkd.data.PARTITIONS`."""

from fedkd.data.partitions.base import Partition
from fedkd.data.partitions.feature import Feature, FeatureConfig
from fedkd.data.partitions.labels import (
    Dirichlet,
    DirichletConfig,
    Shards,
    ShardsConfig,
    Strong,
    StrongConfig,
    Weak,
    WeakConfig,
)
from fedkd.data.partitions.local import Local, LocalConfig
from fedkd.data.partitions.sizes import Iid, IidConfig, Quantity, QuantityConfig

__all__ = [
    "Dirichlet",
    "DirichletConfig",
    "Feature",
    "FeatureConfig",
    "Iid",
    "IidConfig",
    "Local",
    "LocalConfig",
    "Partition",
    "Quantity",
    "QuantityConfig",
    "Shards",
    "ShardsConfig",
    "Strong",
    "StrongConfig",
    "Weak",
    "WeakConfig",
]
