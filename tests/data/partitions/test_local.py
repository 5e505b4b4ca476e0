import numpy as np
import pytest

from fedkd.data.partitions import Local, LocalConfig
from fedkd.errors import ConfigError, DataError

LABELS = np.array([1, 0, 1])


def test_one_client_gets_everything() -> None:
    partition = Local(LocalConfig())
    assert partition.is_local
    (ids,) = partition.assign(LABELS, num_clients=1, num_classes=2, rng=np.random.default_rng(0))
    assert ids.tolist() == [0, 1, 2]


def test_several_clients_on_one_node_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="num_clients is 3, but partition 'local' gives a client all the data"
    ) as caught:
        Local(LocalConfig()).assign(LABELS, num_clients=3, num_classes=2, rng=np.random.default_rng(0))
    assert caught.value.key == "num_clients"


def test_an_empty_node_is_an_error() -> None:
    with pytest.raises(DataError, match="'local' leaves 1 of 1 clients"):
        Local(LocalConfig()).assign(LABELS[:0], num_clients=1, num_classes=2, rng=np.random.default_rng(0))
