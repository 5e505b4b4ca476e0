"""The package as a whole: what importing it costs, and what the checkout must not hold."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

HEAVY = ("torch", "torchvision", "ray", "flwr", "matplotlib", "sklearn", "scipy")
MAX_IMPORT_S = 0.5  # documented bound on `import fedkd`; the only clock in the tests


def test_import_brings_nothing_heavy() -> None:
    loaded = python(f"import sys, fedkd; print(*sorted(set(sys.modules) & set({HEAVY!r})))")
    assert loaded.split() == []


def test_import_is_quick() -> None:
    assert best_of_three_s("import fedkd") - best_of_three_s("pass") < MAX_IMPORT_S


def test_pyproject_has_no_federations(repo_root: Path) -> None:
    # `flwr run` rewrites a pyproject.toml that has this table.
    flower = tomllib.loads((repo_root / "pyproject.toml").read_text())["tool"]["flwr"]
    assert "federations" not in flower


def test_gitignore_lines_are_anchored(repo_root: Path) -> None:
    # Flower's bundle and the wheel are pruned by these lines too: `data/` would drop fedkd/data/.
    lines = (repo_root / ".gitignore").read_text().splitlines()
    rules = {line for line in lines if line and not line.startswith("#")}
    assert {rule for rule in rules if not rule.startswith("/")} <= {"__pycache__/", "*.egg-info/"}


def test_no_file_names_the_checkout(repo_root: Path) -> None:
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=repo_root, check=True, capture_output=True, text=True).stdout
    files = [path for name in listed.split("\0") if name and (path := repo_root / name).is_file()]
    assert files
    checkout = re.compile(rb"(?<![\w.-])" + re.escape(str(repo_root).encode()) + rb"(?![\w-])")
    assert [path for path in files if checkout.search(path.read_bytes())] == []


def best_of_three_s(code: str) -> float:
    times: list[float] = []
    for _ in range(3):
        start = time.perf_counter()
        python(code)
        times.append(time.perf_counter() - start)
    return min(times)


def python(code: str) -> str:
    # -I: what is installed, not what happens to lie in this folder
    return subprocess.run([sys.executable, "-I", "-c", code], check=True, capture_output=True, text=True).stdout
