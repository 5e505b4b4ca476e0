"""The headline, at full length: what the default experiment reaches, and what clients reach by themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedkd import runner
from fedkd.compose import compose


def test_edgefd_reaches_085_where_every_client_has_one_class(tmp_path: Path) -> None:
    summary = runner.run(compose(), tmp_path / "run")
    assert (summary["preset"], summary["partition"], summary["num_clients"], summary["rounds"]) == (
        "edgefd",
        "strong",
        10,
        30,
    )
    assert summary["acc_mean_final"] >= 0.85
    assert min(summary["acc_per_client"]) > 0.5


def test_clients_by_themselves_stay_at_chance(tmp_path: Path) -> None:
    summary = runner.run(compose(overrides={"the test": {"preset": "local_only"}}), tmp_path / "run")
    assert summary["acc_mean_final"] == pytest.approx(0.10, abs=0.02)
    assert summary["upload_bytes"] == summary["download_bytes"] == 0
