"""docs/flower.md names the test of each pitfall: the tests are there."""

from __future__ import annotations

import re
from pathlib import Path


def test_every_test_that_the_page_names_is_there(repo_root: Path) -> None:
    page = (repo_root / "docs" / "flower.md").read_text()
    named = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", page)
    assert len(named) > 10
    for path, test in named:
        text = (repo_root / "tests" / path).read_text()
        assert not test or f"def {test}(" in text, f"{path} has no {test}"


def test_every_numbered_pitfall_names_a_test(repo_root: Path) -> None:
    points = re.split(r"^## ", (repo_root / "docs" / "flower.md").read_text(), flags=re.MULTILINE)[1:]
    assert len(points) == 10
    assert all("*Test*: " in point for point in points)
