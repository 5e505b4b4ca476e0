"""What every test gets: no network, one thread, an empty folder of its own."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Before anything imports numpy or torch, and inherited by the processes that tests start. Results that are compared
# byte for byte need one thread, and two test processes on two cores need no more.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Same examples on every machine and run; no deadline, since a busy machine is no bug.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.load_profile("suite")

LOOPBACK = ["127.0.0.1", "::1"]


@functools.cache
def has_gpu() -> bool:
    """Whether tests marked `gpu` can run."""
    import torch

    return torch.cuda.is_available()


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are skipped where there is none. Those marked `e2e` may use loopback sockets and run one after
    the other in one process.

    All others have no sockets but Unix ones (`--disable-socket` in pyproject.toml). Neither rule reaches the
    processes that a test starts.
    """
    for item in items:
        if item.get_closest_marker("gpu") and not has_gpu():
            item.add_marker(pytest.mark.skip(reason="torch sees no GPU"))
        if item.get_closest_marker("e2e"):
            item.add_marker(pytest.mark.allow_hosts(LOOPBACK))
            item.add_marker(pytest.mark.xdist_group("flower"))


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runs in an empty folder; runs and Flower's files land there too, also those of child processes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDKD_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flwr-home"))


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The checkout: where pyproject.toml is."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    """One torch thread whatever OMP_NUM_THREADS says, for tests that compare results byte for byte."""
    from fedkd.threads import one_torch_thread as limited

    with limited():
        yield
