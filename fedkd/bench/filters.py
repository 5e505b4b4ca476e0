"""Time and memory of the proxy filters: fit, score, what is kept, and the peak of a process that does no more."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from fedkd.bench.child import ask_child
from fedkd.bench.filter_cases import (
    BROADCAST_ROWS,
    PRIVATE,
    ROWS,
    WIDTHS,
    Case,
    all_cases,
    broadcast_bytes,
    draw,
    free_bytes,
    new_filter,
    own_data,
    scorer,
)
from fedkd.bench.record import interleaved, record_of

PACKAGES = ("numpy", "scipy", "scikit-learn")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One case. What does not apply is None."""

    filter: str
    d: int
    k: int | None
    fit_s: float | None  # median
    score_s: float | None  # median, for all rows
    kept_bytes: int | None
    peak_rss_bytes: int | None
    before_fit_bytes: int | None  # of the same process
    has_torch: bool | None
    note: str = ""


def measure(
    *, repeats: int, widths: tuple[int, ...] = WIDTHS, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Everything that the table shows, and the ratios that are claimed, on one thread.

    Repeats are interleaved, each going once through all filters of a width, so that a busy machine slows all alike.
    """
    # The limit holds for libraries that are loaded: these bring thread pools of their own.
    import scipy.linalg  # noqa: F401
    import sklearn.cluster  # noqa: F401
    from threadpoolctl import threadpool_limits

    found: list[Measured] = []
    with threadpool_limits(1):
        for d in widths:
            say(f"d = {d}")
            found += _measure_width(all_cases((d,)), repeats)
    return {
        **record_of(f"fedkd bench filters --json --repeats {repeats}", PACKAGES),
        "rows": ROWS,
        "private": PRIVATE,
        "repeats": repeats,
        "threads": 1,
        "cases": [asdict(each) for each in found],
        "ratios": [ratios(found, d=d) for d in widths],
    }


def ratios(found: list[Measured], *, d: int, k: int = 10) -> dict[str, Any]:
    """How many times faster KMeans scores than each form of KuLSIF at width d, and how many times less it keeps."""
    by_name = {each.filter: each for each in found if each.d == d and each.k in (None, k)}
    kmeans, kulsif = by_name["kmeans"], by_name["kulsif"]
    forms = ("kulsif", "kulsif_float32", "kulsif_broadcast", "ulsif")
    return {
        "d": d,
        "k": k,
        "score": {name: _ratio(by_name[name].score_s, kmeans.score_s) for name in forms if name in by_name},
        "fit": {name: _ratio(by_name[name].fit_s, kmeans.fit_s) for name in ("kulsif", "ulsif") if name in by_name},
        "kept": _ratio(kulsif.kept_bytes, kmeans.kept_bytes),
    }


def peak_memory(case: Case) -> dict[str, Any]:
    """What a process of its own took for a case."""
    return ask_child(
        "fedkd.bench.filter_memory", asdict(case), what=f"measuring the memory of {case.name} at d = {case.d}"
    )


def _measure_width(cases: list[Case], repeats: int) -> list[Measured]:
    proxy = draw(ROWS, cases[0].d, seed=0)
    timed = [case for case in cases if case.name != "kulsif_broadcast"]
    private, holdout = own_data(cases[0].d)

    def fit(case: Case) -> Any:
        return new_filter(case).fit(private).calibrate(holdout)

    fitted = {case: fit(case) for case in timed if case.is_filter}

    def seconds(case: Case) -> tuple[float | None, float]:
        fit_s = _seconds(partial(fit, case)) if case.is_filter else None
        return fit_s, _seconds(partial(scorer(case, fitted.get(case)), proxy))

    found = dict(zip(timed, interleaved(timed, repeats, seconds), strict=True))
    return [
        _broadcast(case) if case.name == "kulsif_broadcast" else _measured(case, found[case], fitted.get(case))
        for case in cases
    ]


def _measured(case: Case, seconds: list[tuple[float | None, float]], fitted: Any) -> Measured:
    fit_s = [fit for fit, _ in seconds if fit is not None]
    memory = peak_memory(case) if fitted is not None else {}
    return Measured(
        filter=case.name,
        d=case.d,
        k=case.k or None,
        fit_s=float(np.median(fit_s)) if fit_s else None,
        score_s=float(np.median([score for _, score in seconds])),
        kept_bytes=fitted.kept_bytes if fitted is not None else None,
        peak_rss_bytes=memory.get("peak_rss_bytes"),
        before_fit_bytes=memory.get("before_fit_bytes"),
        has_torch=memory.get("has_torch"),
    )


def _broadcast(case: Case) -> Measured:
    """The published form, once, on as many rows as it takes at a time; its time is scaled to all rows."""
    needed = broadcast_bytes(case)
    seconds, note = None, f"skipped: takes {needed / 2**30:.1f} GiB"
    if free_bytes() > 2 * needed:
        score, rows = scorer(case, None), draw(BROADCAST_ROWS, case.d, seed=0)
        seconds = _seconds(lambda: score(rows)) * ROWS / BROADCAST_ROWS
        note = f"{BROADCAST_ROWS} rows once, scaled; takes {needed / 2**30:.1f} GiB"
    return Measured(
        filter=case.name,
        d=case.d,
        k=None,
        fit_s=None,
        score_s=seconds,
        kept_bytes=None,
        peak_rss_bytes=None,
        before_fit_bytes=None,
        has_torch=None,
        note=note,
    )


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _ratio(value: float | None, base: float | None) -> float | None:
    return None if value is None or not base else value / base
