"""Peak memory of one filter, in a process of its own: `python -m fedkd.bench.filter_memory`, asked by `ask_child`."""

from __future__ import annotations

import sys
from typing import Any

from fedkd.bench.child import answer, peak_rss_bytes


def measure_memory(request: dict[str, Any]) -> dict[str, Any]:
    """Fit and score the case `name`, `d`, `k`; what that took."""
    from fedkd.bench.filter_cases import ROWS, Case, draw, new_filter, own_data

    case = Case(**request)
    filter = new_filter(case)
    (private, holdout), proxy = own_data(case.d), draw(ROWS, case.d, seed=0)
    before = peak_rss_bytes()
    filter.fit(private).calibrate(holdout).score(proxy)
    return {
        "peak_rss_bytes": peak_rss_bytes(),
        "before_fit_bytes": before,  # Python, numpy, the filters' modules and the data
        "has_torch": "torch" in sys.modules,
    }


if __name__ == "__main__":
    answer(measure_memory)
