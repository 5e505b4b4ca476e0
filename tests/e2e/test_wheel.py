"""The wheel: what is in it, and that it runs from any folder where it is installed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fedkd import __version__

pytestmark = pytest.mark.e2e

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the checkout with the build backend that is installed here: nothing is downloaded."""
    copy = tmp_path_factory.mktemp("wheel") / "copy"
    shutil.copytree(checkout, copy)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation"], cwd=copy, check=True, capture_output=True
    )
    (found,) = (copy / "dist").glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a script of an environment in which the wheel is the only fedkd.

    A really empty environment would need torch installed anew: minutes and gigabytes. So this one borrows the packages
    of the environment that the tests run in. It does so through a .pth file: a folder that is added like that does not
    have its own .pth files read, and one of these is what makes the checkout importable there.
    """
    folder = tmp_path_factory.mktemp("installed") / "env"
    venv.create(folder)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "-q", str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n")

    def run(script: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        command = [str(folder / "bin" / script), *arguments]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=120)

    where = run("python", "-c", "import fedkd; print(fedkd.__file__)", cwd=tmp_path_factory.getbasetemp())
    assert Path(where.stdout.strip()).is_relative_to(folder), where
    return run


def test_it_holds_the_package_and_nothing_else(wheel: Path, checkout: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = {str(path.relative_to(checkout)) for path in (checkout / "fedkd").rglob("*") if path.is_file()}
    assert names == package
    assert "fedkd/py.typed" in names
    assert wheel.name == f"fedkd-{__version__}-py3-none-any.whl"


def test_it_names_its_licence_and_its_extras(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    info = f"fedkd-{__version__}.dist-info"
    metadata = archive.read(f"{info}/METADATA").decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert {"Provides-Extra: simulation", "Provides-Extra: viz"} <= set(metadata.splitlines())
    assert f"{info}/licenses/LICENSE" in archive.namelist()
    assert "fedkd = fedkd.cli:main" in archive.read(f"{info}/entry_points.txt").decode()


def test_it_runs_from_any_folder(installed: Run, tmp_path: Path) -> None:
    done = installed("fedkd", "run", "--engine", "local", "-c", "rounds=2", "--out", "mine", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"report: {tmp_path / 'mine' / 'report.html'}" in done.stdout
    assert (tmp_path / "mine" / "report.html").exists()
    assert json.loads((tmp_path / "mine" / "env.json").read_text())["git_commit"] is None


@pytest.mark.parametrize("command", [("list", "methods", "--json"), ("doctor", "--json")])
def test_its_other_commands_run(command: tuple[str, ...], installed: Run, tmp_path: Path) -> None:
    done = installed("fedkd", *command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
