import numpy as np
import pytest

from fedkd.data.partitions import Quantity, QuantityConfig
from fedkd.errors import ConfigError, DataError
from fedkd.types import Ids

LABELS = np.random.default_rng(5).integers(0, 10, 6000)


def deal(num_clients: int, *, seed: int = 0, **options: float) -> tuple[Ids, ...]:
    partition = Quantity(QuantityConfig(**options))  # type: ignore[arg-type]
    return partition.assign(LABELS, num_clients=num_clients, num_classes=10, rng=np.random.default_rng(seed))


def test_sizes_differ_and_class_mixes_do_not() -> None:
    parts = deal(5, alpha=0.5)
    sizes = [len(ids) for ids in parts]
    assert max(sizes) > 3 * min(sizes)
    whole = np.bincount(LABELS) / len(LABELS)
    for ids in parts:
        if len(ids) > 500:
            np.testing.assert_allclose(np.bincount(LABELS[ids], minlength=10) / len(ids), whole, atol=0.05)


def test_alpha_decides_how_uneven() -> None:
    def spread(alpha: float) -> float:
        return float(np.mean([np.std([len(ids) for ids in deal(10, alpha=alpha, seed=seed)]) for seed in range(5)]))

    assert spread(0.1) > 2 * spread(5.0) > 4 * spread(1e5)


def test_everyone_gets_the_minimum() -> None:
    for seed in range(10):
        assert min(len(ids) for ids in deal(50, alpha=0.05, min_samples=7, seed=seed)) >= 7
    assert [len(ids) for ids in deal(6000, min_samples=1)] == [1] * 6000
    with pytest.raises(DataError, match=r"'quantity': 6000 samples cannot give each of 3001 clients 2"):
        deal(3001)


@pytest.mark.parametrize("values", [{"alpha": 0.0}, {"alpha": float("nan")}, {"min_samples": 0}])
def test_bad_values_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        QuantityConfig(**values)  # type: ignore[arg-type]
