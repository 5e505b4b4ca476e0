"""The data set that a configuration names: one of ours, or a user's own function."""

from __future__ import annotations

from dataclasses import replace

from fedkd.data import DATASETS
from fedkd.data.base import Dataset, ImageSet
from fedkd.data.config import DataConfig
from fedkd.data.subset import reduced
from fedkd.errors import ConfigError, DataError
from fedkd.lookup import resolve


def load_dataset(config: DataConfig) -> Dataset:
    """The data set behind `config.name`, an entry of DATASETS or `package.module:function`, as far as it is to be used.

    Where `data.validation` replaces the test set, the name says so: `mnist[validation]`.

    Raises:
        ConfigError: the name is unknown or cannot be imported.
        DataError: what it names is no function, or returns something else; or the data are missing or damaged.
        MissingExtraError: reading the data needs a package that is not installed.
    """
    found = _found(config)
    train, test = reduced(found.train, found.test, config)
    if config.validation > 0:
        found = replace(found, name=f"{found.name}[validation]", train=train, test=test)
    elif train is not found.train or test is not found.test:
        found = replace(found, train=train, test=test)
    return found.scaled() if isinstance(found, ImageSet) else found


def _found(config: DataConfig) -> Dataset | ImageSet:
    try:
        function = resolve(DATASETS, config.name, what="data set")
    except ConfigError as error:
        raise ConfigError(f"data.name {error}", key="data.name") from error
    wanted = "a function that takes a DataConfig and returns a fedkd.data.base.Dataset"
    if not callable(function):
        raise DataError(f"data.name {config.name!r} names a {type(function).__name__}, expected {wanted}")
    found = function(config)
    if not isinstance(found, Dataset | ImageSet):
        raise DataError(f"data.name {config.name!r} returned a {type(found).__name__}, expected {wanted}")
    return found
