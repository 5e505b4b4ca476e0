"""A Flower SuperLink of our own, for one run: on a free port, in a folder of its own, ended with all it started."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedkd.errors import RunError
from fedkd.types import Scalar

START_TIMEOUT_S = 60.0  # until the SuperLink answers
COMMAND_TIMEOUT_S = 120.0  # of one call of Flower's command line
END_TIMEOUT_S = 30.0  # the leash forces what is left after twice its GRACE_S
POLL_S = 0.2
RAY_FOLDER_LIMIT = 40  # longer, and the paths of Ray's sockets below it exceed the 107 bytes that they may have
_BIN = Path(sys.executable).parent
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True, eq=False)
class SuperLink:
    """The running SuperLink, through Flower's command line."""

    home: Path
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes]

    def submit(self, app: Path, config: Mapping[str, Scalar], federation: Mapping[str, Scalar]) -> str:
        """Submit an app with its run config and the simulation's size; Flower's id of the run."""
        size = " ".join(f"{key}={value}" for key, value in federation.items())
        settings = " ".join(f"{key}={json.dumps(value)}" for key, value in config.items())
        said = self._flwr("run", str(app), "fedkd", "-c", settings, "--federation-config", size, "--format", "json")
        try:
            return str(json.loads(said)["run-id"])
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"`flwr run` gave no run id: {_complaint(said)}") from error

    def status(self, run_id: str) -> tuple[str, str]:
        """Flower's word on the run, such as `running` or `finished:completed`, and what it says of the reason."""
        said = self._flwr("list", "fedkd", "--run-id", run_id, "--format", "json")
        try:
            run = json.loads(said)["runs"][0]
            return str(run["status"]), str(run.get("status-details") or "")
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise RunError(f"`flwr list` gave no status: {_complaint(said)}") from error

    def log(self, run_id: str) -> str:
        """What the run printed, without colours; where it cannot be had, why, and the SuperLink's own log."""
        try:
            text = self._flwr("log", run_id, "fedkd", "--show")
        except RunError as error:
            text = f"{error}\n\nThe SuperLink's own log:\n{_read(self.home / 'superlink.log')}"
        return _ANSI.sub("", text)

    def check_alive(self) -> None:
        """RunError where the SuperLink has ended."""
        if self.process.poll() is not None:
            said = last_words(_read(self.home / "superlink.log"))
            raise RunError(f"the SuperLink ended with code {self.process.returncode}: {said}")

    def wait_until_healthy(self, port: int) -> None:
        """Return once the SuperLink answers; RunError where it ended or START_TIMEOUT_S have passed."""
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            self.check_alive()
            with contextlib.suppress(OSError), direct.open(f"http://127.0.0.1:{port}/health", timeout=1) as reply:
                if reply.status == 200:
                    return
            time.sleep(POLL_S)
        said = last_words(_read(self.home / "superlink.log"))
        raise RunError(f"the SuperLink was not ready within {START_TIMEOUT_S:g} s: {said}")

    def _flwr(self, *arguments: str) -> str:
        """Run Flower's command line; its output, or RunError with what it said."""
        try:
            done = subprocess.run(
                [str(_BIN / "flwr"), *arguments],
                env=self.environment,
                cwd=self.home,
                capture_output=True,
                text=True,
                check=True,
                stdin=subprocess.DEVNULL,
                timeout=COMMAND_TIMEOUT_S,
            )
        except subprocess.CalledProcessError as error:
            raise RunError(f"`flwr {arguments[0]}` failed: {_complaint(error.stderr or error.stdout)}") from error
        except subprocess.TimeoutExpired as error:
            raise RunError(f"`flwr {arguments[0]}` gave no answer within {COMMAND_TIMEOUT_S:g} s") from error
        except OSError as error:
            raise RunError(f"{_BIN / 'flwr'} cannot be started: {error.strerror}; install fedkd with pip") from error
        return done.stdout


@contextlib.contextmanager
def superlink() -> Iterator[SuperLink]:
    """A SuperLink that ends when the block does, or this process, in whatever way; see `fedkd.leash`.

    Raises:
        RunError: it does not start.
    """
    home, port = _new_home(), _free_port()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "fedkd"\n[superlink.fedkd]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    environment = {**os.environ, **settings(home, os.environ)}
    command = [sys.executable, "-m", "fedkd.leash", str(home), str(_BIN / "flower-superlink")]
    command += ["--insecure", "--simulation", "--isolation", "subprocess", "--disable-runtime-dependency-installation"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with (home / "superlink.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=home,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C does not reach it
        )
    link = SuperLink(home, environment, process)
    try:
        link.wait_until_healthy(port)
        yield link
    finally:
        _let_go(process)
        shutil.rmtree(home, ignore_errors=True)  # the leash does so only where this process cannot


def settings(home: Path, given: Mapping[str, str]) -> dict[str, str]:
    """What everything that Flower and Ray start for this run finds in its environment beside what was `given`."""
    found = {
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",  # no `uv sync` at each run
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",  # seconds until a submitted run starts
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's future behaviour, and no warning about it in every log
        "OMP_NUM_THREADS": "1",
        # Flower starts its helpers by their bare names.
        "PATH": os.pathsep.join(filter(None, (str(_BIN), given.get("PATH")))),
        # They must import what this process imports, outside classes too, in this order.
        "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path if not path.endswith(".zip")),
    }
    for name in ("NO_PROXY", "no_proxy"):  # the SuperLink is on this machine, whatever proxy leads out of it
        found[name] = ",".join(filter(None, (given.get(name), "127.0.0.1")))
    if "RAY_TMPDIR" not in given:
        found["RAY_TMPDIR"] = str(home)  # else Ray leaves its logs for good
    return found


def last_words(text: str) -> str:
    """The last lines of a log that say something."""
    lines = [line for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-8:]) or "the log is empty"


def _new_home() -> Path:
    """A new folder for Flower's and Ray's files: in $TMPDIR, or in /tmp where that is too long for Ray's sockets."""
    try:
        home = Path(tempfile.mkdtemp(prefix="fedkd-flwr-"))
        if len(os.fsencode(home)) > RAY_FOLDER_LIMIT:
            home.rmdir()
            home = Path(tempfile.mkdtemp(prefix="fedkd-flwr-", dir="/tmp"))
    except OSError as error:
        raise RunError(f"no folder for Flower's files: {error}; let $TMPDIR name one that you can write to") from error
    return home


def _let_go(process: subprocess.Popen[bytes]) -> None:
    """Close our end of the leash and wait until all is ended."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _complaint(said: str) -> str:
    """What Flower's command line says of itself: the message in its JSON, or the end of its text."""
    try:
        said = str(json.loads(said)["error-message"])
    except (ValueError, KeyError, TypeError):
        said = _ANSI.sub("", said)
    return " ".join(said.split())[-2000:]


def _read(path: Path) -> str:
    try:
        return _ANSI.sub("", path.read_text(errors="replace"))
    except OSError as error:
        return f"no log: {error.strerror}"
