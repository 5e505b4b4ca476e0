"""The filters' benchmark: what it prints, and the claims on memory. Nothing here looks at a clock."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from fedkd.bench import filter_cases, filters
from fedkd.bench.filter_cases import Case, all_cases, broadcast_sum, draw, float32_sum, new_filter, own_data
from fedkd.bench.filters import PACKAGES, Measured, measure, peak_memory, ratios
from fedkd.bench.record import machine
from fedkd.cli import app
from fedkd.errors import FedKDError
from fedkd.functional.kernel_density import kernel_sum

MEMORY_LIMIT_BYTES = 256 * 2**20


def kept_bytes(case: Case) -> int:
    private, holdout = own_data(case.d)
    kept: int = new_filter(case).fit(private).calibrate(holdout).kept_bytes
    return kept


@pytest.mark.parametrize("d", [64, 784])
def test_kmeans_keeps_at_least_fifty_times_less_than_kulsif(d: int) -> None:
    kmeans, kulsif = kept_bytes(Case("kmeans", d, 10)), kept_bytes(Case("kulsif", d))
    assert kmeans == 10 * d * 4 + 16
    assert kulsif == (250 + 270) * (d * 4 + 8) + 16
    assert kulsif >= 50 * kmeans


@pytest.mark.parametrize("case", [Case("kmeans", 784, 10), Case("kulsif", 784), Case("ulsif", 784)], ids=str)
def test_a_filter_fits_and_scores_in_256_mb_and_without_torch(case: Case) -> None:
    """6,000 rows of 784 float32 are 18.8 MB of it, Python with numpy and scikit-learn some 130 MB."""
    found = peak_memory(case)
    assert not found["has_torch"]
    assert 18_816_000 < found["before_fit_bytes"] <= found["peak_rss_bytes"] < MEMORY_LIMIT_BYTES


def test_a_measurement_that_fails_says_why() -> None:
    with pytest.raises(FedKDError, match="measuring the memory of kmeans at d = 0 failed"):
        peak_memory(Case("kmeans", 0, 1))


def test_the_forms_of_kulsif_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    points, weights = draw(520, 12, seed=3).x, np.linspace(-1, 1, 520).astype(np.float32)
    x = draw(300, 12, seed=0).x
    mantissa, exponent = kernel_sum(x, points, weights, sigma=filter_cases.SIGMA)
    for form in (float32_sum, broadcast_sum):
        np.testing.assert_allclose(form(x, points, weights), mantissa * np.exp(exponent), rtol=1e-3, atol=1e-3)


def test_the_table_has_every_size() -> None:
    cases = all_cases()
    assert len(set(cases)) == len(cases) == 4 * (3 + 4)
    assert {case.k for case in cases if case.name == "kmeans"} == {1, 10, 50}
    assert {case.d for case in cases} == {64, 512, 784, 3072}


def test_ratios_by_hand() -> None:
    def measured(name: str, **figures: Any) -> Measured:
        unknown: dict[str, Any] = dict.fromkeys(Measured.__dataclass_fields__)
        return Measured(**{**unknown, "filter": name, "d": 64, "note": "", **figures})

    found = [
        measured("kmeans", k=1, fit_s=9.0, score_s=9.0, kept_bytes=9),
        measured("kmeans", k=10, fit_s=2.0, score_s=0.5, kept_bytes=10),
        measured("kulsif", fit_s=1.0, score_s=10.0, kept_bytes=520),
        measured("kulsif_broadcast"),
    ]
    assert ratios(found, d=64) == {
        "d": 64,
        "k": 10,
        "score": {"kulsif": 20.0, "kulsif_broadcast": None},
        "fit": {"kulsif": 0.5},
        "kept": 52.0,
    }


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows, one width, and a memory that was measured before."""
    fixed = {"peak_rss_bytes": 160_000_000, "before_fit_bytes": 90_000_000, "has_torch": False}
    monkeypatch.setattr(filters, "peak_memory", lambda case: fixed)
    monkeypatch.setattr(filters, "ROWS", 300)
    monkeypatch.setattr(filters, "BROADCAST_ROWS", 30)
    monkeypatch.setattr(filters, "WIDTHS", (16,))


@pytest.mark.usefixtures("small")
def test_everything_is_measured() -> None:
    found = measure(repeats=2, widths=(16,))
    assert (found["rows"], found["repeats"], found["threads"]) == (300, 2, 1)
    assert found["machine"] == machine(PACKAGES)
    assert [(case["filter"], case["k"]) for case in found["cases"]] == [
        ("kmeans", 1), ("kmeans", 10), ("kmeans", 50), ("kulsif", None),
        ("kulsif_float32", None), ("kulsif_broadcast", None), ("ulsif", None),
    ]  # fmt: skip
    for case in found["cases"]:
        assert case["score_s"] > 0
        is_filter = case["filter"] in {"kmeans", "kulsif", "ulsif"}
        assert (case["fit_s"] is not None) == (case["kept_bytes"] is not None) == is_filter
    assert "30 rows once, scaled" in found["cases"][5]["note"]
    json.dumps(found)


def test_what_does_not_fit_the_memory_is_skipped(monkeypatch: pytest.MonkeyPatch, small: None) -> None:
    monkeypatch.setattr(filters, "free_bytes", lambda: 0)
    case = measure(repeats=1, widths=(16,))["cases"][5]
    assert case["score_s"] is None
    assert case["note"].startswith("skipped: takes")


@pytest.mark.usefixtures("small")
def test_the_command_prints_json_or_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "measure", lambda **_: measure(repeats=1, widths=(16,)))
    printed = CliRunner().invoke(app, ["bench", "filters", "--json"])
    assert printed.exit_code == 0
    assert len(json.loads(printed.stdout)["cases"]) == 7
    table = CliRunner().invoke(app, ["bench", "filters", "--repeats", "1"])
    assert table.exit_code == 0
    assert "kulsif_broadcast" in table.stdout
    assert "kulsif keeps" in table.stdout
