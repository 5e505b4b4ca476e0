"""The two apps as Flower calls them, over a grid of our own."""

from __future__ import annotations

import importlib
import re
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, RecordDict
from flwr.supercore.task_identity import TaskIdentity  # internal name
from flwr.superlink.grid import InMemoryGrid

from fedkd import client_app
from fedkd.errors import FedKDError, RunError
from fedkd.federation import flower_fleet
from fedkd.report.folder import RunFolder
from fedkd.server_app import app, mend_simulation, settle_pyarrow
from tests.federation.fake_grid import FakeGrid, Node

TINY = {"preset": "local_only", "rounds": 1, "overrides": "schedule.private_steps = 1"}


@pytest.fixture(autouse=True)
def as_in_flower(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    monkeypatch.setattr(flower_fleet, "POLL_S", 0.001)
    monkeypatch.setattr("fedkd.runner.write_report", lambda folder: None)


def serve(config: dict[str, Any], grid: FakeGrid | None = None) -> None:
    context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=config)
    app(grid=grid or FakeGrid(Node(1), Node(2)), context=context)  # type: ignore[arg-type]


@pytest.mark.usefixtures("one_torch_thread")
def test_a_run_ends_with_its_table_and_says_where_it_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    serve({**TINY, "out": str(tmp_path / "mine")})
    out, err = capfd.readouterr()
    assert out.startswith(f"run folder: {tmp_path / 'mine'}\n")
    assert re.search(r"preset +data +partition", out)
    assert "round 1/1" in err
    assert RunFolder.open(tmp_path / "mine").summary_json.exists()


@pytest.mark.usefixtures("one_torch_thread")
def test_without_a_name_it_goes_to_the_folder_of_runs(tmp_path: Path) -> None:
    serve(TINY)
    (found,) = (tmp_path / "runs").iterdir()
    assert found.name.endswith("-local_only")


def test_a_relative_path_is_refused() -> None:
    with pytest.raises(FedKDError, match="out is 'here', expected an absolute path"):
        serve({**TINY, "out": "here"})


def test_why_it_failed_lies_in_the_folder_until_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower_fleet, "WAIT_FOR_NODES_S", 0.01)
    with pytest.raises(RunError):
        serve({**TINY, "out": str(tmp_path / "mine")}, FakeGrid())
    reason = tmp_path / "mine" / "error.txt"
    assert reason.read_text().startswith("no Flower node registered within 0.01 s")
    with pytest.raises(ConnectionError):
        serve({"resume-from": str(tmp_path / "mine")}, FakeGrid(Node(1), dies_at=0))
    assert reason.read_text() == "ConnectionError: the SuperLink is gone\n"
    serve({"resume-from": str(tmp_path / "mine")})
    assert not reason.exists()


def test_a_device_names_its_clients_and_folders() -> None:
    node = client_app.node_of(
        {"client-ids": "3,4", "state-root": "/srv/state", "data-root": "/srv/data", "device-name": "pi"}
    )
    assert (node.client_ids, node.state_root, node.data_root) == ((3, 4), "/srv/state", "/srv/data")
    assert node.profile.name == "pi"
    assert client_app.node_of({"client-ids": 3}).client_ids == (3,)  # Flower reads it as a number


def test_a_simulated_node_names_nobody() -> None:
    assert client_app.node_of({"partition-id": 1, "num-partitions": 2}).client_ids is None


def test_a_pyarrow_that_another_thread_imports_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half, go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(sys, "in_the_test", (half, go_on), raising=False)
    (tmp_path / "pyarrow.py").write_text(
        "import sys\nhalf, go_on = sys.in_the_test\nhalf.set()\nassert go_on.wait(60)\nTable = object\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "pyarrow", raising=False)
    as_ray_does = threading.Thread(target=importlib.import_module, args=("pyarrow",))
    as_ray_does.start()
    assert half.wait(60)
    threading.Timer(0.2, go_on.set).start()
    settle_pyarrow()
    assert hasattr(sys.modules["pyarrow"], "Table")
    as_ray_does.join()


def test_without_pyarrow_there_is_nothing_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    settle_pyarrow()


def test_the_pool_of_flower_s_simulation_is_mended_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Flower's simulation needs the extra 'simulation'")
    from flwr.simulation.ray_transport.ray_actor import BasicActorPool

    as_it_was = BasicActorPool.submit
    monkeypatch.setattr(BasicActorPool, "submit", as_it_was)
    mend_simulation.cache_clear()
    mend_simulation()
    mended = BasicActorPool.submit
    mend_simulation()
    assert mended is BasicActorPool.submit is not as_it_was
    mend_simulation.cache_clear()


@pytest.mark.parametrize(("grid", "is_mended"), [(FakeGrid(Node(1)), False), (object.__new__(InMemoryGrid), True)])
def test_nothing_is_mended_in_a_deployment(grid: Any, is_mended: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []
    monkeypatch.setattr("fedkd.server_app.mend_simulation", lambda: calls.append(True))
    with pytest.raises(FedKDError):  # before anything is sent
        serve({"resume-from": "not/absolute"}, grid)
    assert calls == [True] * is_mended
