"""Flower's bundle of the checkout: what is in it, and that it works where nothing else of the checkout is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

MAX_BYTES = 2_000_000  # Flower refuses more than 10 MB, and a device gets it over its own network
SUFFIXES = {".py", ".toml", ".md", ".json", ".yaml", ".yml", ".jsonl"}

# -I: no PYTHONPATH and no working folder; so the bundle goes in front of the checkout that this environment knows.
USE_IT = """
import importlib, pkgutil, sys
from pathlib import Path
bundle, run = Path(sys.argv[1]), Path(sys.argv[2])
sys.path.insert(0, str(bundle))
import fedkd
assert Path(fedkd.__file__).is_relative_to(bundle), fedkd.__file__
names = [found.name for found in pkgutil.walk_packages(fedkd.__path__, "fedkd.")]
modules = [importlib.import_module(name) for name in names]
assert all(Path(module.__file__).is_relative_to(bundle) for module in modules)
from fedkd.compose import find_experiment
assert find_experiment("edgefd_digits").is_relative_to(bundle)
from fedkd.report.folder import RunFolder
from fedkd.report.html import write_report
print(len(names), write_report(RunFolder.open(run)))
"""


@pytest.fixture(scope="module")
def bundle(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle as `flwr build` makes it, built from a copy."""
    copy = tmp_path_factory.mktemp("bundle") / "copy"
    shutil.copytree(checkout, copy)
    quiet = {"FLWR_HOME": str(copy.parent / "flwr"), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    command = [str(Path(sys.executable).parent / "flwr"), "build"]
    subprocess.run(command, cwd=copy, env={**os.environ, **quiet}, check=True, capture_output=True)
    (found,) = copy.glob("*.fab")
    return found


def test_it_is_small_and_holds_allowed_files_only(bundle: Path) -> None:
    assert bundle.stat().st_size < MAX_BYTES
    names = [Path(name) for name in zipfile.ZipFile(bundle).namelist()]
    assert {name.suffix for name in names if name.name != "LICENSE" and name.parts[0] != ".info"} <= SUFFIXES
    assert {name.parts[0] for name in names} == {
        ".info",
        "LICENSE",
        "README.md",
        "fedkd",
        "pyproject.toml",
        "simulations",
    }


def test_the_whole_package_and_every_experiment_is_in_it(bundle: Path, checkout: Path) -> None:
    names = set(zipfile.ZipFile(bundle).namelist())
    package = {str(path.relative_to(checkout)) for path in (checkout / "fedkd").rglob("*") if path.is_file()}
    experiments = {str(path.relative_to(checkout)) for path in (checkout / "simulations").glob("*.toml")}
    assert experiments
    assert package - {"fedkd/py.typed"} <= names  # a resource needs a line in pyproject.toml's fab-include
    assert experiments <= names


def test_it_imports_and_renders_a_report_by_itself(bundle: Path, straight: Callable[..., Path], tmp_path: Path) -> None:
    unzipped, run = tmp_path / "unzipped", tmp_path / "run"
    zipfile.ZipFile(bundle).extractall(unzipped)
    shutil.copytree(straight(rounds=3), run)
    (run / "report.html").unlink()
    command = [sys.executable, "-I", "-c", USE_IT, str(unzipped), str(run)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 50
    assert (run / "report.html").stat().st_size > 10_000
