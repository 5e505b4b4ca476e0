from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedkd.federation.messages import HELLO, Job, Request
from fedkd.federation.preflight import preflight
from fedkd.federation.wire import Bundle, Parcel, pack, unpack
from fedkd.federation.worker import Worker, WorkerDiedError
from tests.harness import experiment

NOBODY = pack(Bundle(HELLO, Parcel()))


@pytest.fixture
def hello(tmp_path: Path) -> bytes:
    chosen = experiment()
    plan = preflight(chosen)
    plan.partition.save(tmp_path / "partition.npz")
    job = Job(experiment=chosen.flat(), state_root=str(tmp_path), partition=str(tmp_path / "partition.npz"))
    return Request(kind=HELLO, shared=Parcel({"job": job.to_json()}), clients={}).common()


@pytest.fixture
def worker() -> Iterator[Worker]:
    started = Worker.start()
    yield started
    started.stop()


def standin(code: str) -> Worker:
    """A process that behaves badly."""
    pipe = subprocess.PIPE
    return Worker(subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, process_group=0))


def test_a_child_answers_one_request_after_another(worker: Worker, hello: bytes) -> None:
    first, second = (unpack(worker.ask(hello, NOBODY)).shared.header for _ in range(2))
    assert first["process"]["pid"] == second["process"]["pid"] == worker.process.pid
    assert first["partition"]
    assert worker.is_alive
    worker.stop()
    assert worker.process.returncode == 0
    assert not worker.is_alive


def test_a_request_that_makes_it_fail_ends_it_and_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    worker = Worker.start()
    with pytest.raises(WorkerDiedError, match="ended with code 1"):
        worker.ask(b"nonsense", b"nonsense")
    assert not worker.is_alive
    worker.stop()
    assert "no valid message" in capfd.readouterr().err


def test_a_child_that_dies_before_it_answers_is_told_with_its_code() -> None:
    child = standin("import os; os.read(0, 1); os._exit(7)")
    with pytest.raises(WorkerDiedError, match="ended with code 7"):
        child.ask(b"x", b"y")
    child.stop()


def test_half_an_answer_is_no_answer() -> None:
    child = standin(r"import os; os.read(0, 1); os.write(1, b'\x09' + bytes(7) + b'four')")
    with pytest.raises(WorkerDiedError):
        child.ask(b"x", b"y")
    child.stop()


def test_a_child_killed_meanwhile_lets_go_of_whoever_asks() -> None:
    child = standin("import time; time.sleep(600)")
    faults: list[Exception] = []

    def ask() -> None:
        try:
            child.ask(b"x", b"y")
        except WorkerDiedError as error:
            faults.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    child.kill()
    asking.join()
    assert len(faults) == 1
    assert child.process.returncode == -signal.SIGKILL
    child.stop()


def test_killing_ends_what_the_child_started_too() -> None:
    # The grandchild holds the pipe open: only its end lets the reader see the end.
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    child = standin(code)
    assert child.process.stdout is not None
    assert child.process.stdout.readline() == b"1\n"
    child.kill()
    assert child.process.stdout.read() == b""
    child.stop()


def test_a_dead_child_can_be_killed_and_stopped_again() -> None:
    child = standin("pass")
    child.process.wait()
    child.kill()
    child.stop()
    child.stop()
    assert child.process.returncode == 0


def test_work_for_a_caller_who_was_killed_ends_at_once(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\n"
        "from fedkd.federation.worker import serve\n"
        "def answer(common, cohort):\n"
        "    try:\n"
        "        print('at work', flush=True)\n"  # goes to standard error
        "        time.sleep(600)\n"
        "    finally:\n"
        f"        open({str(tmp_path / 'tidy')!r}, 'w').close()\n"
        "serve(lambda: answer)\n"
    )
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, str(tmp_path / "slow.py")], **pipes) as child:
        assert child.stdin is not None
        assert child.stderr is not None
        child.stdin.write(bytes(16))  # two empty frames
        child.stdin.flush()
        assert child.stderr.readline() == b"at work\n"
        child.stdin.close()  # as the system does for one who was killed
        assert child.wait(60) == 128 + signal.SIGTERM
    assert (tmp_path / "tidy").exists()
