"""Whole runs write no report: it is tested elsewhere and takes longer than the runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fedkd import runner


@pytest.fixture(scope="module", autouse=True)
def no_report() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "write_report", lambda folder: None)
        yield
