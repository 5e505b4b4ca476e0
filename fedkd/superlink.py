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
from importlib.util import find_spec
from pathlib import Path

from fedkd.errors import MissingExtraError, RunError
from fedkd.types import Scalar

START_TIMEOUT_S = 60.0  # until the SuperLink answers
COMMAND_TIMEOUT_S = 120.0  # of one call of Flower's command line
END_TIMEOUT_S = 30.0  # the leash forces what is left after twice its GRACE_S
POLL_S = 0.2
RAY_FOLDER_LIMIT = 40  # longer, and the paths of Ray's sockets below it exceed the 107 bytes that they may have
_BIN = Path(sys.executable).parent
_FLWR = (sys.executable, "-m", "fedkd.ahead", "flwr")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def check_flower_engine() -> None:
    """MissingExtraError where a Flower simulation cannot run here."""
    if find_spec("ray") is None:
        raise MissingExtraError(
            "the Flower engine simulates on Ray, which is not installed; run: pip install 'fedkd[simulation]'"
        )


class SubmitError(RunError):
    """Flower took no run."""


class Command:
    """A call of Flower's command line that is loaded ahead of its arguments; see `fedkd.ahead`."""

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        self._name = "flwr"
        self._out, self._err = (Path(_temporary(home, f"flwr-{which}-")) for which in ("out", "err"))
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                list(_FLWR),
                env={**environment, "PYTHONUNBUFFERED": "1"},  # what it says is read while it runs
                cwd=home,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                bufsize=0,
                start_new_session=True,  # Ctrl-C does not reach it
            )

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    @property
    def said(self) -> str:
        """Its standard output up to now."""
        return self._out.read_text(errors="replace")

    def call(self, *arguments: str) -> Command:
        """Hand it its arguments; it begins."""
        self._name = f"flwr {arguments[0]}"
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, and `answer` tells why
            self._process.stdin.write(json.dumps(arguments).encode() + b"\n")
        return self

    def answer(self) -> str:
        """What it said, once it has ended; RunError where it failed or takes too long."""
        try:
            code = self._process.wait(COMMAND_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise RunError(f"`{self._name}` gave no answer within {COMMAND_TIMEOUT_S:g} s") from error
        finally:
            self.close()
        if code:
            raise RunError(self.refusal())
        return self.said

    def refusal(self) -> str:
        """What it complained of."""
        return f"`{self._name}` failed: {_complaint(self._err.read_text(errors='replace') or self.said)}"

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()


@dataclass(eq=False)
class SuperLink:
    """A SuperLink that starts or runs, and its one run, through Flower's command line."""

    home: Path
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes]
    port: int
    _run: Command | None = None  # submits the run, then streams its log
    _spare: Command | None = None  # loaded ahead, for whatever is asked next

    def submit(self, app: Path, config: Mapping[str, Scalar], federation: Mapping[str, Scalar]) -> None:
        """Submit an app with its run config and the simulation's size, once the SuperLink answers.

        The command goes on, with the run's log, until the run has ended: see `is_streaming`.
        """
        size = " ".join(f"{key}={value}" for key, value in federation.items())
        settings = " ".join(f"{key}={json.dumps(value)}" for key, value in config.items())
        self.wait_until_healthy()
        self._run = self._command().call(
            "run", str(app), "fedkd", "-c", settings, "--federation-config", size, "--stream"
        )

    @property
    def is_streaming(self) -> bool:
        """Whether Flower still sends the log of the run; it stops once the run has ended."""
        return self._run is not None and not self._run.is_over

    def status(self) -> tuple[str, str]:
        """Flower's word on the run, such as `running` or `finished:completed`, and what it says of the reason.

        Raises:
            SubmitError: Flower refused the run.
            RunError: Flower gave no answer.
        """
        said = self._command().call("list", "fedkd", "--format", "json").answer()
        try:
            runs = json.loads(said)["runs"]  # this SuperLink has no other
            if not runs and self._run is not None:
                if not self._run.is_over:
                    return "submitted", ""
                raise SubmitError(self._run.refusal())
            return str(runs[0]["status"]), str(runs[0].get("status-details") or "")
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise RunError(f"`flwr list` gave no status: {_complaint(said)}") from error

    def get_ready(self) -> None:
        """Load Flower's command line for the next question, which is then answered at once."""
        if self._spare is None:
            self._spare = Command(self.home, self.environment)

    def log(self) -> str:
        """What the run printed, without colours; where that is nothing, the SuperLink's own log."""
        text = "" if self._run is None else self._run.said
        if not text.strip():
            text = f"The run has no log. The SuperLink's own log:\n{_read(self.home / 'superlink.log')}"
        return _ANSI.sub("", text)

    def check_alive(self) -> None:
        """RunError where the SuperLink has ended."""
        if self.process.poll() is not None:
            said = last_words(_read(self.home / "superlink.log"))
            raise RunError(f"the SuperLink ended with code {self.process.returncode}: {said}")

    def wait_until_healthy(self) -> None:
        """Return once the SuperLink answers; RunError where it ended or START_TIMEOUT_S have passed."""
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            self.check_alive()
            with contextlib.suppress(OSError), direct.open(f"http://127.0.0.1:{self.port}/health", timeout=1) as reply:
                if reply.status == 200:
                    return
            time.sleep(POLL_S)
        said = last_words(_read(self.home / "superlink.log"))
        raise RunError(f"the SuperLink was not ready within {START_TIMEOUT_S:g} s: {said}")

    def close(self) -> None:
        """End what talks to it."""
        for command in (self._run, self._spare):
            if command is not None:
                command.close()

    def _command(self) -> Command:
        command, self._spare = self._spare, None
        return command or Command(self.home, self.environment)


@contextlib.contextmanager
def superlink() -> Iterator[SuperLink]:
    """A SuperLink that starts while the block begins, and ends when the block does, or this process, in whatever way.

    See `fedkd.leash`. Whether it has started is found out when a run is submitted.

    Raises:
        RunError: there is no folder for its files.
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
    link = SuperLink(home, environment, process, port)
    try:
        link.get_ready()
        yield link
    finally:
        link.close()
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
        "RAY_prestart_worker_first_driver": "0",  # workers that Flower's actors, having an environment, never use
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


def _temporary(folder: Path, prefix: str) -> str:
    handle, name = tempfile.mkstemp(prefix=prefix, dir=folder)
    os.close(handle)
    return name


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
