"""The data set that a configuration names: one of ours, or a user's own function."""

from __future__ import annotations

from fedkd.data import DATASETS
from fedkd.data.base import Dataset
from fedkd.data.config import DataConfig
from fedkd.errors import ConfigError, DataError
from fedkd.lookup import resolve


def load_dataset(config: DataConfig) -> Dataset:
    """What the function behind `config.name` returns: an entry of DATASETS, or `package.module:function` from outside.

    Raises:
        ConfigError: the name is unknown or cannot be imported.
        DataError: what it names is no function, or returns something other than a Dataset.
    """
    try:
        function = resolve(DATASETS, config.name, what="data set")
    except ConfigError as error:
        raise ConfigError(f"data.name {error}", key="data.name") from error
    wanted = "a function that takes a DataConfig and returns a fedkd.data.base.Dataset"
    if not callable(function):
        raise DataError(f"data.name {config.name!r} names a {type(function).__name__}, expected {wanted}")
    dataset = function(config)
    if not isinstance(dataset, Dataset):
        raise DataError(f"data.name {config.name!r} returned a {type(dataset).__name__}, expected {wanted}")
    return dataset
