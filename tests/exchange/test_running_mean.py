"""The running mean against the formula over all voices at once: equal to the last bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from fedkd.exchange.combine import VOTERS, Combination, combine
from fedkd.rows import Rows


def at_once(spoken: Sequence[Rows]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, means and voters."""
    ids = np.unique(np.concatenate([rows.ids for rows in spoken]))
    shape = (len(ids), spoken[0].values.shape[1])
    weighted, plain, weights, voters = np.zeros(shape), np.zeros(shape), np.zeros(shape), np.zeros((len(ids), 1))
    for rows in spoken:
        at = np.searchsorted(ids, rows.ids)
        weight = np.ones((len(rows), 1)) if rows.weight is None else rows.weight.reshape(len(rows), -1)
        plain[at] += rows.values
        voters[at] += 1
        weighted[at] += weight * rows.values.astype(np.float64)
        weights[at] += weight
    mean = np.divide(weighted, weights, out=plain / voters, where=weights > 0)
    return ids, mean.astype(np.float32), voters[:, 0].astype(np.float32)


def voices(seed: int, *, weights: str) -> list[Rows]:
    """Clients that speak for some of 40 rows; who has weights is `none`, `all` or only the `later` ones."""
    rng = np.random.default_rng(seed)
    spoken = []
    for client in range(6):
        ids = np.flatnonzero(rng.random(40) < rng.uniform(0.1, 0.9))
        weight: Any = None
        if weights == "all" or (weights == "later" and client >= 3):
            weight = rng.random(len(ids) if client % 2 else (len(ids), 5)).astype(np.float32)
            weight[rng.random(weight.shape) < 0.2] = 0.0
        values = rng.normal(size=(len(ids), 5)).astype(np.float32)
        spoken.append(Rows(space="proxy", kind="feature", ids=ids, values=values, weight=weight))
    return spoken


@pytest.mark.parametrize("weights", ["none", "all", "later"])
@pytest.mark.parametrize("seed", range(8))
def test_it_is_the_mean_of_all_voices_at_once(seed: int, weights: str) -> None:
    spoken = voices(seed, weights=weights)
    found = combine(iter(spoken))
    ids, mean, voters = at_once(spoken)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_array_equal(found.values, mean)
    np.testing.assert_array_equal(found.columns[VOTERS], voters)


def test_before_anybody_has_spoken_there_is_nothing_to_combine() -> None:
    with pytest.raises(ValueError, match="nobody has spoken"):
        Combination().result()
