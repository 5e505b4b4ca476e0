"""Sweeps over Ray: what can be told without a cluster."""

import pytest

from fedkd.errors import RunError
from fedkd.sweep.ray_pool import run_on_ray


@pytest.mark.e2e
@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:none"])
def test_a_cluster_that_is_not_there_is_told_at_once(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="sweeps over Ray need the extra 'simulation'")
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(RunError, match=f"no Ray cluster at {address}: .*; check RAY_ADDRESS"):
        list(run_on_ray([], cpus=1, gpus=0))
