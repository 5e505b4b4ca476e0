"""The Flower engine without Flower: what is submitted, and how a run is waited for. tests/e2e runs it for real."""

from __future__ import annotations

import itertools
import os
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedkd import flower_run
from fedkd.compose import compose
from fedkd.errors import FedKDError, RunError
from fedkd.report.tail import Tail
from fedkd.runner import Run, start_run
from fedkd.superlink import SubmitError
from fedkd.types import Scalar


class FakeLink:
    """A SuperLink that says what it is told to say; the last status stays."""

    def __init__(self, *statuses: str, then: Any = lambda: None, streams: int = 0) -> None:
        self.statuses = itertools.chain(statuses, itertools.repeat(statuses[-1]))
        self.submitted: list[Any] = []
        self.looks = self.got_ready = 0
        self._then = then
        self._streams = streams

    def submit(self, app: Path, config: dict[str, Scalar], federation: dict[str, Scalar]) -> None:
        self.submitted.append((app, config, federation))

    @property
    def is_streaming(self) -> bool:
        self._streams -= 1
        return self._streams >= 0

    def get_ready(self) -> None:
        self.got_ready += 1

    def status(self) -> tuple[str, str]:
        self.looks += 1
        status = next(self.statuses)
        if status == "refused":
            raise SubmitError("`flwr run` failed: no such app")
        if status == "no answer":
            raise RunError("`flwr list` gave no answer within 120 s")
        if status.startswith("finished"):
            self._then()
        return status, "heartbeat lost"

    def log(self) -> str:
        return "INFO: first\n\nValueError: the last word\n"

    def check_alive(self) -> None:
        pass


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return start_run(compose(overrides={"here": {"rounds": 1}}), tmp_path / "run")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower_run, "POLL_S", 0.001)
    monkeypatch.setattr(flower_run, "STATUS_EVERY_S", (0.0, 0.002, 0.002))


def on(link: FakeLink, run: Run, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    monkeypatch.setattr(flower_run, "report", lambda folder: None)
    return flower_run.run_on_flower(run, link=link, **options)  # type: ignore[arg-type]


def test_a_completed_run_gives_its_summary_and_its_log(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def finish() -> None:
        run.folder.summary_json.write_text('{"schema_version": 1, "preset": "edgefd"}')
        run.folder.metrics_jsonl.write_text('{"round_id": 0, "acc/mean": 0.5}\n')

    heard: list[Any] = []
    link = FakeLink("pending", "running", "finished:completed", then=finish)
    assert on(link, run, monkeypatch, listeners=[heard.append])["preset"] == "edgefd"
    assert [event["acc/mean"] for event in heard] == [0.5]
    assert (run.folder.path / "flower.log").read_text().startswith("INFO: first")
    ((app, config, federation),) = link.submitted
    assert app == run.folder.path / "app"
    assert config == {"resume-from": str(run.folder.path)}
    assert federation["num-supernodes"] == 1


def test_a_failed_run_tells_the_reason_that_the_server_wrote(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = run.folder.path / "error.txt"
    link = FakeLink("finished:failed", then=lambda: reason.write_text("0 good replies, need 1\n"))
    with pytest.raises(RunError) as caught:
        on(link, run, monkeypatch)
    log = run.folder.path / "flower.log"
    assert str(caught.value) == (
        f"the Flower run ended as finished:failed: 0 good replies, need 1\nFlower's log: {log}"
    )
    assert log.exists()


def test_a_run_that_failed_without_a_reason_tells_its_last_words(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (run.folder.path / "error.txt").write_text("of an earlier attempt")
    with pytest.raises(RunError, match=r"finished:stopped: heartbeat lost\nINFO: first\nValueError: the last word\n"):
        on(FakeLink("finished:stopped"), run, monkeypatch)


def test_completed_without_a_summary_is_no_success(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match="completed but left no summary"):
        on(FakeLink("finished:completed"), run, monkeypatch)


def test_a_run_that_stays_pending_is_given_up_with_its_log(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower_run, "PENDING_TIMEOUT_S", 0.02)
    with pytest.raises(RunError, match=r"still pending after 0\.02 s(.|\n)*flower\.log"):
        on(FakeLink("pending"), run, monkeypatch)
    assert (run.folder.path / "flower.log").exists()


def waited(link: FakeLink, run: Run, **options: Any) -> tuple[str, str]:
    options = {"is_ending": lambda: False, **options}
    return flower_run.wait(link, tail_of(run), **options)  # type: ignore[arg-type]


def test_flower_may_be_silent_for_a_while(run: Run) -> None:
    link = FakeLink(*["no answer"] * 4, "running", *["no answer"] * 4, "finished:completed")
    assert waited(link, run)[0] == "finished:completed"


def test_flower_may_not_be_silent_for_ever(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match=r"gave no answer(.|\n)*flower\.log"):
        on(FakeLink("no answer"), run, monkeypatch)


def test_a_run_that_flower_refuses_is_told_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    link = FakeLink("refused")
    with pytest.raises(RunError, match=r"no such app(.|\n)*flower\.log"):
        on(link, run, monkeypatch)
    assert link.looks == 1


def test_a_run_that_works_may_take_longer_than_that(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower_run, "PENDING_TIMEOUT_S", 0.01)
    link = FakeLink(*["running"] * 20, "finished:completed")
    assert waited(link, run) == ("finished:completed", "heartbeat lost")


def test_flower_is_asked_when_its_stream_ends(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower_run, "STATUS_EVERY_S", (60.0, 60.0, 60.0))
    link = FakeLink("finished:failed", streams=20)
    assert waited(link, run) == ("finished:failed", "heartbeat lost")
    assert link.looks == 1


def test_a_run_that_runs_is_left_alone_while_flower_streams(run: Run) -> None:
    link = FakeLink("pending", "running", "finished:completed", streams=50)
    assert waited(link, run)[0] == "finished:completed"
    assert link.looks == 3


def test_the_report_is_written_once_while_flower_ends(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower_run, "STATUS_EVERY_S", (60.0, 60.0, 60.0))
    done: list[int] = []
    link = FakeLink("finished:completed", streams=20)
    waited(link, run, is_ending=lambda: True, meanwhile=lambda: done.append(link.looks))
    assert (done, link.got_ready) == ([0], 1)


@pytest.mark.parametrize(("name", "reports"), [("summary_json", 1), ("error.txt", 0)])
def test_a_run_that_failed_has_no_report(name: str, reports: int, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Any] = []
    run.folder.summary_json.write_text('{"schema_version": 1}')  # of an earlier attempt
    os.utime(run.folder.summary_json, ns=(1, 1))
    path = run.folder.summary_json if name == "summary_json" else run.folder.path / name
    link = FakeLink("finished:completed", streams=20)
    link.submit = lambda *given: path.write_text('{"schema_version": 1}')  # type: ignore[assignment, method-assign]
    monkeypatch.setattr(flower_run, "report", written.append)
    flower_run.run_on_flower(run, link=link)  # type: ignore[arg-type]
    assert len(written) == reports


def tail_of(run: Run) -> Tail:
    return Tail(run.folder.metrics_jsonl, run.folder.timings_jsonl, [])


# What is submitted.


@pytest.mark.parametrize(
    ("given", "nodes", "actors"),
    [
        ({}, 1, 1),
        ({"engine.workers": 2}, 2, 2),
        ({"clients_per_node": 3}, 4, 1),
        ({"clients_per_node": 1, "engine.workers": 2}, 10, 2),
    ],
)
def test_nodes_hold_the_clients_and_workers_are_the_actors(given: dict[str, Scalar], nodes: int, actors: int) -> None:
    size = flower_run.simulation_size(compose(overrides={"here": {"device": "cpu", **given}}))
    assert (size["num-supernodes"], size["init-args-num-cpus"]) == (nodes, actors)
    assert (size["client-resources-num-cpus"], size["client-resources-num-gpus"]) == (1, 0.0)


def test_a_ray_cluster_that_is_there_keeps_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")  # ray.init refuses a size then
    assert "init-args-num-cpus" not in flower_run.simulation_size(compose())


@pytest.mark.parametrize(
    ("given", "gpus", "share"),
    [
        ({"device": "cpu"}, 1, 0.0),
        ({}, 0, 0.0),
        ({}, 1, 0.25),
        ({}, 3, 0.5),  # of the four, two share a GPU: three quarters each would fit only three
        ({}, 8, 1.0),
        ({"engine.gpus_per_worker": 2.0}, 0, 2.0),  # the GPUs are elsewhere on the cluster
    ],
)
def test_workers_share_the_gpus(given: dict[str, Scalar], gpus: int, share: float, monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    experiment = compose(overrides={"here": {"engine.workers": 4, **given}})
    assert flower_run.simulation_size(experiment)["client-resources-num-gpus"] == share


@pytest.mark.parametrize("workers", range(1, 33))
def test_as_many_workers_fit_on_a_gpu_as_share_it(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    size = flower_run.simulation_size(compose(overrides={"here": {"engine.workers": workers}}))
    kept = float(np.float32(size["client-resources-num-gpus"]))  # as Flower's message keeps it
    assert int(1.0 / kept) == workers  # as Flower counts


def test_the_thin_app_is_two_imports(tmp_path: Path) -> None:
    app = flower_run.write_app(tmp_path / "app")
    flower_run.write_app(app)  # a run that goes on has one already
    flower = tomllib.loads((app / "pyproject.toml").read_text())["tool"]["flwr"]
    assert "federations" not in flower
    assert flower["app"]["components"] == {"serverapp": "fedkd_run.server:app", "clientapp": "fedkd_run.client:app"}
    assert "from fedkd.server_app import app" in (app / "fedkd_run" / "server.py").read_text()
    assert sorted(os.listdir(app / "fedkd_run")) == ["__init__.py", "client.py", "server.py"]


def test_an_app_that_cannot_be_written_is_a_readable_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FedKDError, match="cannot write the Flower app"):
        flower_run.write_app(tmp_path / "file" / "app")
