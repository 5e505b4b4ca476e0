"""The run folder: where everything that a run leaves behind lies, and under which names."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shlex
import shutil
import sys
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import final

from fedkd.errors import ConfigError
from fedkd.files import write_atomic
from fedkd.provenance import checkout
from fedkd.version import __version__

PACKAGES = ("flwr", "torch", "numpy")


@final
class RunFolder:
    """One run's folder. Make it with `create` or `open`; the properties only name files, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path).absolute()

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """A new, empty run folder at `path`, parents included.

        Raises:
            ConfigError: `path` exists already, or it cannot be made; nothing is left behind then.
        """
        folder = cls(path)
        missing = [p for p in (folder.path, *folder.path.parents) if not p.exists()]
        try:
            for part in reversed(missing[1:]):
                part.mkdir(exist_ok=True)
            folder.path.mkdir()
        except FileExistsError as error:
            raise _taken(folder.path) from error
        except OSError as error:
            _remove_empty(missing[1:])
            raise _unmakeable(folder.path, error) from error
        try:
            for part in (folder.plots, folder.checkpoints, folder.state):
                part.mkdir()
        except OSError as error:
            shutil.rmtree(folder.path, ignore_errors=True)
            _remove_empty(missing[1:])
            raise _unmakeable(folder.path, error) from error
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The run folder at `path`.

        Raises:
            ConfigError: there is none; the text says what is there instead.
        """
        folder = cls(path)
        if not folder.path.exists():
            raise ConfigError(
                f"run folder {path} does not exist; check the path, or start the run with `fedkd run --out {path}`"
            )
        if not folder.path.is_dir():
            raise ConfigError(f"{path} is a file, expected a run folder; give the folder that holds config.toml")
        if not folder.config_toml.is_file():
            inner = sorted(p.parent.name for p in folder.path.glob("*/config.toml"))
            shown = f"{', '.join(inner[:3])}{' …' if len(inner) > 3 else ''}"
            advice = f"name one of the runs in it: {shown}" if inner else "give the folder that `fedkd run` printed"
            raise ConfigError(f"{path} is no run folder: it has no config.toml; {advice}")
        return folder

    @property
    def config_toml(self) -> Path:
        """The whole experiment, every key."""
        return self.path / "config.toml"

    @property
    def env_json(self) -> Path:
        """Versions and machine; see `write_env`."""
        return self.path / "env.json"

    @property
    def metrics_jsonl(self) -> Path:
        """Every number that a repetition of the run reproduces."""
        return self.path / "metrics.jsonl"

    @property
    def timings_jsonl(self) -> Path:
        """Clock and memory readings."""
        return self.path / "timings.jsonl"

    @property
    def summary_json(self) -> Path:
        """The headline figures, one flat object."""
        return self.path / "summary.json"

    @property
    def report_html(self) -> Path:
        """The report, one self-contained file."""
        return self.path / "report.html"

    @property
    def plots(self) -> Path:
        """Each plot as SVG with its CSV."""
        return self.path / "plots"

    @property
    def checkpoints(self) -> Path:
        """What the coordinator needs to go on."""
        return self.path / "checkpoints"

    @property
    def state(self) -> Path:
        """The clients' own state."""
        return self.path / "state"

    @property
    def partition_npz(self) -> Path:
        """Which samples each client holds."""
        return self.path / "partition.npz"

    def write_env(self) -> None:
        """Write env.json: versions, machine, commit of the checkout (else null) and the command line."""
        commit, is_dirty = checkout()
        env = {
            "fedkd": __version__,
            **{package: _version(package) for package in PACKAGES},
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpu_count": os.cpu_count(),
            "git_commit": commit,
            "git_dirty": is_dirty,
            "command": shlex.join(sys.argv),
        }
        write_atomic(self.env_json, (json.dumps(env, indent=2) + "\n").encode())


def default_run_path(preset: str, now: datetime, *, root: Path = Path("runs")) -> Path:
    """`<root>/<time>-<preset>`, with -2, -3 … appended while that is taken."""
    stem = f"{now:%Y%m%d-%H%M%S}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', preset)[:60]}"
    path, copy = root / stem, 1
    while path.exists():
        copy += 1
        path = root / f"{stem}-{copy}"
    return path


def state_home_run_path() -> Path:
    """The folder for runs without a working directory of their own: $FEDKD_RUNS, else the user's state folder.

    Give it to `default_run_path` as `root`.
    """
    chosen = os.environ.get("FEDKD_RUNS", "")
    if chosen:
        return Path(chosen).expanduser().absolute()
    home = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not home.is_absolute():  # the XDG specification says to ignore relative paths
        home = Path.home() / ".local" / "state"
    return home / "fedkd" / "runs"


def _taken(path: Path) -> ConfigError:
    return ConfigError(
        f"run folder {path} exists already; choose another --out, remove it, or go on with it: --resume {path}"
    )


def _unmakeable(path: Path, error: OSError) -> ConfigError:
    where = f" ({error.filename})" if error.filename and Path(error.filename) != path else ""
    return ConfigError(
        f"run folder {path} cannot be made: {error.strerror}{where}; choose an --out in a folder that you can write to"
    )


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:  # innermost first; one that another process filled meanwhile stays
        with contextlib.suppress(OSError):
            folder.rmdir()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
