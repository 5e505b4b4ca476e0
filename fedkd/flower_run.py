"""`fedkd run --engine flower`: Flower's own `flwr run`, with every pitfall of it taken care of (docs/flower.md).

Flower's command line submits a run and forgets it. Here a SuperLink of our own on a free port serves exactly one run,
is waited for, judged by Flower's word on how the run ended, and ended by its process id.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fedkd.errors import FedKDError, MissingExtraError, RunError
from fedkd.report.summary import Summary, read_summary
from fedkd.report.tail import Tail
from fedkd.runner import Listener, Run

START_TIMEOUT_S = 60.0
STATUS_EVERY_S = 4.0
POLL_S = 0.2
END_TIMEOUT_S = 15.0
_BIN = Path(sys.executable).parent

_PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "fedkd-run"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []
[tool.hatch.build.targets.wheel]
packages = ["."]
[tool.flwr.app]
publisher = "fedkd"
[tool.flwr.app.components]
serverapp = "fedkd_run.server:app"
clientapp = "fedkd_run.client:app"
[tool.flwr.app.config]
resume-from = ""
"""


def run_on_flower(run: Run, *, listeners: Sequence[Listener] = ()) -> Summary:
    """Run (or go on with) the run in a Flower simulation on Ray; the summary.

    Raises:
        RunError: Flower could not start, or the run did not end as completed; the reason is in the text, and Flower's
            log lies in the run folder.
    """
    if find_spec("ray") is None:
        raise MissingExtraError("the Flower engine simulates on Ray, which is not installed; run: pip install 'fedkd[simulation]'")
    folder = run.folder
    app = _write_app(folder.path / "app")
    reason = folder.path / "error.txt"
    reason.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="fedkd-flwr-") as home, _superlink(Path(home)) as link:
        run_id = link.submit(app, folder.path, run)
        tail = Tail(folder.metrics_jsonl, folder.timings_jsonl, listeners)
        status = _wait(link, run_id, tail, done=folder.summary_json, failed=reason)
        if status != "finished:completed":
            log = link.keep_log(run_id, folder.path / "flower.log")
            said = reason.read_text().strip() if reason.exists() else _last_words(log)
            raise RunError(f"the Flower run ended as {status}: {said}\nFlower's log: {log}")
    summary = read_summary(folder)
    if summary is None:
        raise RunError(f"the Flower run completed but left no summary in {folder.path}; see Flower's log there")
    return summary


@dataclass(frozen=True)
class _SuperLink:
    """A SuperLink of this run alone."""

    home: Path
    port: int
    environment: dict[str, str]

    def flwr(self, *arguments: str) -> str:
        """Run Flower's command line; its output, or RunError with what it said."""
        found = subprocess.run(
            [str(_BIN / "flwr"), *arguments], env=self.environment, cwd=self.home, capture_output=True, text=True, check=False
        )
        if found.returncode:
            raise RunError(f"`flwr {arguments[0]}` failed: {(found.stderr or found.stdout).strip()[-2000:]}")
        return found.stdout

    def submit(self, app: Path, out: Path, run: Run) -> str:
        """Submit the thin app; Flower's id of the run."""
        workers, per_node = run.experiment.engine.workers, run.experiment.core.clients_per_node
        nodes = -(-run.experiment.core.num_clients // per_node) if per_node else workers
        resources = {
            "num-supernodes": nodes,
            "client-resources-num-cpus": 1,
            "client-resources-num-gpus": _gpu_share(run.experiment.core.device, workers),
            "init-args-num-cpus": workers,  # as many actors as workers
        }
        said = self.flwr(
            "run",
            str(app),
            "fedkd",
            "-c",
            f"resume-from={json.dumps(str(out))}",
            "--federation-config",
            " ".join(f"{key}={value}" for key, value in resources.items()),
            "--format",
            "json",
        )
        try:
            return str(json.loads(said)["run-id"])
        except (ValueError, KeyError) as error:
            raise RunError(f"`flwr run` gave no run id: {said.strip()[-2000:]}") from error

    def status(self, run_id: str) -> str:
        """Flower's word on the run, such as `running` or `finished:completed`."""
        said = self.flwr("list", "fedkd", "--run-id", run_id, "--format", "json")
        try:
            return str(json.loads(said)["runs"][0]["status"])
        except (ValueError, KeyError, IndexError) as error:
            raise RunError(f"`flwr list` gave no status: {said.strip()[-2000:]}") from error

    def keep_log(self, run_id: str, path: Path) -> Path:
        """Write Flower's log of the run to `path`."""
        try:
            path.write_text(self.flwr("log", run_id, "fedkd", "--show"))
        except RunError as error:
            path.write_text(f"{error}\n")
        return path


@contextlib.contextmanager
def _superlink(home: Path) -> Iterator[_SuperLink]:
    """A SuperLink on a free port, in a folder of its own, ended by its id whatever happens."""
    port = _free_port()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "fedkd"\n[superlink.fedkd]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    environment = {**os.environ, **_settings(home), "PATH": f"{_BIN}{os.pathsep}{os.environ.get('PATH', '')}"}
    command = ["flower-superlink", "--insecure", "--simulation", "--isolation", "subprocess"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--disable-runtime-dependency-installation"]
    command[0] = str(_BIN / command[0])
    with (home / "superlink.log").open("wb") as log:
        # A session of its own: whatever it starts can be ended with it, and Ctrl-C here does not reach it first.
        process = subprocess.Popen(
            command, env=environment, cwd=home, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _wait_until_healthy(process, port, home / "superlink.log")
        yield _SuperLink(home, port, environment)
    finally:
        _end(process)


def _settings(home: Path) -> dict[str, str]:
    """Environment of everything Flower and Ray in this run."""
    return {
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",  # no `uv sync` at each run
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        # The process that is started for the run must find the same outside classes as this one.
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path if not path.endswith(".zip")),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RunError(f"flower-superlink ended with code {process.returncode}: {_last_words(log)}")
        with contextlib.suppress(OSError):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as reply:
                if reply.status == 200:
                    return
        time.sleep(POLL_S)
    raise RunError(f"flower-superlink was not ready within {START_TIMEOUT_S:g} s: {_last_words(log)}")


def _wait(link: _SuperLink, run_id: str, tail: Tail, *, done: Path, failed: Path) -> str:
    """Follow the run's numbers until Flower says that it is over."""
    asked = time.monotonic()
    while True:
        tail.follow()
        is_ending = done.exists() or failed.exists()
        if is_ending or time.monotonic() - asked > STATUS_EVERY_S:  # each look costs a Python start
            status = link.status(run_id)
            asked = time.monotonic()
            if status.startswith("finished"):
                tail.follow()
                return status
        time.sleep(POLL_S)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the SuperLink and what it started: politely, then by force."""
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_TIMEOUT_S)
    with contextlib.suppress(ProcessLookupError):  # its session is named by its process id
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _gpu_share(device: str, workers: int) -> float:
    """GPUs per worker: all share one, where there is one and it is wanted."""
    if device == "cpu":
        return 0.0
    import torch

    return 1.0 / workers if torch.cuda.is_available() else 0.0


def _write_app(path: Path) -> Path:
    """The thin app that Flower bundles: a pyproject and two imports. The installed fedkd does the work."""
    shutil.rmtree(path, ignore_errors=True)
    package = path / "fedkd_run"
    try:
        package.mkdir(parents=True)
        (path / "pyproject.toml").write_text(_PYPROJECT)
        (package / "__init__.py").write_text("")
        for side in ("server", "client"):
            (package / f"{side}.py").write_text(f"from fedkd.{side}_app import app\n\n__all__ = ['app']\n")
    except OSError as error:
        raise FedKDError(f"cannot write the Flower app to {path}: {error.strerror}") from error
    return path


def _last_words(log: Path) -> str:
    """The last lines of a log that say something."""
    try:
        lines: list[Any] = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return "no log"
    return "\n".join(lines[-8:]) or "the log is empty"
