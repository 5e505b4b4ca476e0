"""Where a figure comes from: the commit of the code and the machine that ran it."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

COMPUTES = ("fedkd", "simulations/*.toml", "simulations/*.py", "pyproject.toml")  # what a figure depends on


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def checkout() -> tuple[str | None, bool | None]:
    """Commit of the checkout that this package runs from, and whether code or experiments differ from it.

    Documents and recorded results do not count: recording a figure must not make the next one look unclean.
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():  # an installed package may lie inside someone else's checkout
        return None, None
    commit = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "--no-optional-locks", "status", "--porcelain", "--untracked-files=no", "--", *COMPUTES)
    return commit or None, None if changes is None else bool(changes)


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
