"""The command line in this process: what is printed, where, and with which exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedkd import __version__, cli, superlink
from fedkd.cli import Kind

TINY = ("-c", "rounds=2", "-c", "schedule.private_steps=1")
OUTSIDE = """
import numpy as np
from dataclasses import replace
from fedkd.data.base import Samples
from fedkd.data.digits import load_digits

def broken(config):
    data = load_digits(config)
    x = data.train.x.copy()
    x[3] = np.nan
    return replace(data, train=Samples(x, data.train.y))

def nothing(config):
    return None
"""


@dataclass(frozen=True)
class Said:
    """What a command left: its exit code, standard output and standard error."""

    code: int
    out: str
    err: str


Fedkd = Callable[..., Said]


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """No colours by order of the environment that the tests run in; room for a table."""
    for name in ("FORCE_COLOR", "PY_COLORS", "TTY_COMPATIBLE", "CLICOLOR_FORCE", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def fedkd(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Fedkd:
    """`fedkd('run', ...)` as its console script would run it."""

    def call(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["fedkd", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        code = caught.value.code
        assert isinstance(code, int)
        return Said(code, *capsys.readouterr())

    return call


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "outside_data.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(str(folder))


# A run.


def test_a_run_prints_progress_a_table_and_where_it_lies(
    fedkd: Fedkd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = fedkd("run", *TINY, "--out", "mine")
    assert said.code == 0
    assert [line.split("  ")[0] for line in said.err.splitlines()] == ["set-up", "round 1/2", "round 2/2", "closing"]
    assert f"run:    {tmp_path / 'mine'}\n" in said.out
    assert f"report: {tmp_path / 'mine' / 'report.html'}\n" in said.out
    assert (tmp_path / "mine" / "report.html").exists()
    assert "\x1b" not in said.out + said.err
    assert json.loads((tmp_path / "mine" / "summary.json").read_text())["engine"] == "local"

    again = fedkd("run", *TINY, "--out", "mine")
    assert again.code == 1
    assert "exists already; choose another --out, remove it, or go on with it: --resume" in again.err

    rebuilt = fedkd("report", "mine")
    assert (rebuilt.code, rebuilt.out) == (0, f"{tmp_path / 'mine' / 'report.html'}\n")
    monkeypatch.setattr("fedkd.runner.write_report", lambda folder: None)  # twice is enough
    resumed = fedkd("run", "--resume", "mine")  # nothing is left to do
    assert resumed.code == 0
    assert "edgefd" in resumed.out


def test_an_experiment_file_and_the_default_folder(fedkd: Fedkd, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('preset = "local_only"\nrounds = 9\n[schedule]\nprivate_steps = 1\n')
    assert fedkd("run", "mine.toml", "-c", "rounds=1").code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.endswith("-local_only")
    assert "rounds = 1\n" in (folder / "config.toml").read_text()


def test_ctrl_c_says_how_to_go_on(fedkd: Fedkd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fedkd.runner.conduct_locally", interrupted)
    said = fedkd("run", *TINY, "--out", "mine")
    assert said.code == 130
    assert said.err == f"fedkd: stopped; go on with: fedkd run --resume {tmp_path / 'mine'} --engine local\n"


def test_failing_clients_are_told_on_standard_error(
    fedkd: Fedkd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "failing.py").write_text(
        "from fedkd.methods.soft_targets import SoftTargets\n"
        "class Fails(SoftTargets):\n"
        "    def fit(self, ctx, state, knowledge):\n"
        "        if ctx.client_id == 3: raise ValueError('no battery')\n"
        "        return super().fit(ctx, state, knowledge)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    said = fedkd("run", *TINY, "-c", "method.name=failing:Fails", "--out", "mine")
    assert said.code == 0
    assert "warning: round 0: client 3 gave no usable reply: ValueError: no battery" in said.err.splitlines()
    assert "failed 1" in said.err


# Bad input: one readable error, exit code 1, nothing on disk.


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-c", "round=5"], "unknown key 'round' (from the command line); did you mean 'rounds'?"),
        (["-c", "method.temprature=2"], "unknown key 'method.temprature' (from the command line); did you mean"),
        (["-c", "preset=edgefdd"], "preset is 'edgefdd'; did you mean 'edgefd'?"),
        (["-c", "rounds"], "override 'rounds' is no key=value pair; write for example -c rounds=5"),
        (["-c", "rounds=0"], "rounds (from the command line)"),
        (["-c", "partition.name=dirichlet", "-c", "partition.alpha=-1"], "partition.alpha (from the command line)"),
        (["-c", "partition.name=strong", "-c", "num_clients=11"], "num_clients"),
        (["-c", "model.num_outputs=9"], "9"),
        (["-c", "data.name=outside_data:broken"], "finite"),
        (["-c", "data.name=outside_data:nothing"], "'outside_data:nothing' returned a NoneType, expected a function"),
        (["-c", "data.name=outside_data:missing"], "data.name is 'outside_data:missing', but"),
        (
            ["-c", "method.name=nowhere:Class"],
            "module 'nowhere' cannot be imported; install it or put it on PYTHONPATH",
        ),
        (["-c", "device=cuda:9"], "device"),
        (["nowhere.toml"], "experiment 'nowhere.toml' is neither a file nor the name of one"),
        (["edgefd_digit"], "did you mean 'edgefd_digits'?"),
        (["modules/outside_data.py"], "is no valid TOML"),
        (["--out", "modules"], "run folder {tmp_path}/modules exists already; choose another --out"),
        (["--out", "modules/outside_data.py/run"], "cannot be made: Not a directory"),
        (["--resume", "nowhere"], "run folder nowhere does not exist; check the path"),
        (["--resume", "modules"], "modules is no run folder: it has no config.toml"),
        (["--resume", "modules/outside_data.py"], "is a file, expected a run folder"),
        (["--resume", "modules", "-c", "rounds=3"], "--resume goes on with a run as it is"),
        (["--resume", "modules", "--out", "x"], "--resume goes on with a run as it is"),
        (["--resume", "modules", "edgefd_digits"], "--resume goes on with a run as it is"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_readable_error_and_leaves_nothing(
    arguments: list[str], said: str, fedkd: Fedkd, tmp_path: Path
) -> None:
    before = snapshot(tmp_path)
    found = fedkd("run", *arguments)
    assert (found.code, found.out) == (1, "")
    assert found.err.startswith("fedkd: ")
    assert said.format(tmp_path=tmp_path) in found.err
    assert "Traceback" not in found.err
    assert "\x1b" not in found.err
    assert len(found.err.splitlines()) == 1
    assert snapshot(tmp_path) == before


def test_a_missing_extra_is_named_before_anything_is_made(
    fedkd: Fedkd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(superlink, "find_spec", lambda name: None)
    found = fedkd("run", "--engine", "flower", "--out", "mine")
    assert found.code == 1
    assert found.err == (
        "fedkd: the Flower engine simulates on Ray, which is not installed; run: pip install 'fedkd[simulation]'\n"
    )
    assert snapshot(tmp_path) == {}


def test_without_plots_a_run_succeeds_with_a_note(
    fedkd: Fedkd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("matplotlib", "jinja2")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_Blocks("matplotlib", "jinja2"), *sys.meta_path])
    found = fedkd("run", *TINY, "-c", "preset=local_only", "--out", "mine")
    assert found.code == 0
    assert "warning: no plots and no report: " in found.err
    assert "pip install 'fedkd[viz]'" in found.err
    assert "report:" not in found.out
    failed = fedkd("report", "mine")
    assert failed.code == 1
    assert "pip install 'fedkd[viz]'" in failed.err


class _Blocks:
    """A finder for which some packages are not installed."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in self._names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize(
    "arguments", [["run", "--engine", "bogus"], ["run", "-x"], ["list"], ["list", "bogus"], ["bogus"], ["report"]]
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], fedkd: Fedkd, tmp_path: Path) -> None:
    found = fedkd(*arguments)
    assert found.code == 2
    assert "Usage:" in found.err
    assert "Traceback" not in found.err
    assert snapshot(tmp_path) == {}


# A sweep.


SWEEP = """
[sweep]
title = "Tiny"
[base]
rounds = 1
num_clients = 2
schedule.private_steps = 1
data.max_train = 100
data.max_test = 20
[axes]
preset = ["edgefd", "local_only"]
"""


def test_a_sweep_ends_in_a_table_and_a_page_and_runs_nothing_twice(fedkd: Fedkd, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(SWEEP)
    listed = fedkd("compare", tmp_path / "tiny.toml", "--out", tmp_path / "out", "--dry-run")
    assert (listed.code, listed.out.split()) == (0, ["preset=edgefd,seed=0", "preset=local_only,seed=0"])
    assert not (tmp_path / "out").exists()
    found = fedkd("compare", tmp_path / "tiny.toml", "--out", tmp_path / "out", "--workers", 1)
    assert found.code == 0, found.err
    assert "Tiny: 2 cells, 0 there, 2 to run" in found.err
    assert "2/2  preset=local_only,seed=0  acc " in found.err
    assert "local_only" in found.out
    assert str(tmp_path / "out" / "comparison.html") in found.out.replace("\n", "")
    assert (tmp_path / "out" / "comparison.html").is_file()
    again = fedkd("compare", tmp_path / "tiny.toml", "--out", tmp_path / "out")
    assert (again.code, again.out) == (0, found.out)
    assert "2 cells, 2 there, 0 to run" in again.err


def test_a_sweep_that_cannot_be_is_one_readable_error(fedkd: Fedkd, tmp_path: Path) -> None:
    for arguments, said in (
        (["nowhere"], "fedkd: sweep 'nowhere' is neither a file nor the name of one in simulations/compare."),
        (["digits", "--gpus-per-cell", "0.5"], "fedkd: --cpus-per-cell and --gpus-per-cell are for --ray"),
    ):
        found = fedkd("compare", *arguments, "--out", tmp_path / "out")
        assert (found.code, found.out) == (1, "")
        assert found.err.startswith(said)
    assert snapshot(tmp_path) == {}


def test_report_of_no_run_is_refused(fedkd: Fedkd) -> None:
    found = fedkd("report", "nowhere")
    assert (found.code, found.out) == (1, "")
    assert found.err.startswith("fedkd: run folder nowhere does not exist")


# Tables, help, machine.


@pytest.mark.parametrize("kind", Kind)
def test_lists_are_tables_or_json(kind: Kind, fedkd: Fedkd) -> None:
    table, listed = fedkd("list", kind), fedkd("list", kind, "--json")
    assert (table.code, listed.code) == (0, 0)
    entries = json.loads(listed.out)
    assert all(entry["name"] in table.out for entry in entries)
    assert "\x1b" not in table.out + listed.out


def test_doctor_prints_lines_or_json(fedkd: Fedkd, monkeypatch: pytest.MonkeyPatch) -> None:
    lines, listed = fedkd("doctor"), fedkd("doctor", "--json")
    assert (lines.code, listed.code) == (0, 0)
    assert {check["name"] for check in json.loads(listed.out)} >= {"python", "torch", "flwr"}
    assert len(lines.out.splitlines()) == len(json.loads(listed.out))
    monkeypatch.setattr("fedkd.doctor.NEEDED", ("no-such-package",))
    failed = fedkd("doctor")
    assert failed.code == 1
    assert "FAIL  no-such-package: not installed" in failed.out


@pytest.mark.parametrize("command", [[], ["run"], ["report"], ["list"], ["doctor"]])
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_every_command_has_help(command: list[str], option: str, fedkd: Fedkd) -> None:
    found = fedkd(*command, option)
    assert found.code == 0
    assert "Usage:" in found.out
    assert "\x1b" not in found.out


def test_help_names_every_command_and_what_a_run_can_be_told(fedkd: Fedkd) -> None:
    everything = fedkd("--help").out
    assert all(command in everything for command in ("run", "report", "list", "doctor"))
    run = fedkd("run", "--help").out
    assert all(option in run for option in ("--config", "--engine", "--out", "--resume", "KEY=VALUE"))


def test_version(fedkd: Fedkd) -> None:
    assert fedkd("--version").out == f"{__version__}\n"


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file with its content, folders as empty ones; what Python compiles aside."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }
