"""Peak memory of one filter, in a process of its own: `python -m fedkd.bench.filter_memory NAME D K`."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path


def peak_rss_bytes() -> int:
    """The most memory that this process held.

    Linux hands `ru_maxrss` on to a child process, so there the peak of this process alone comes from /proc.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, others kB


def main() -> None:
    """Fit and score one case; print what it took as JSON."""
    from fedkd.bench.filter_cases import ROWS, Case, draw, new_filter, own_data

    name, d, k = sys.argv[1:]
    filter = new_filter(Case(name, int(d), int(k)))
    (private, holdout), proxy = own_data(int(d)), draw(ROWS, int(d), seed=0)
    before = peak_rss_bytes()
    filter.fit(private).calibrate(holdout).score(proxy)
    found = {
        "peak_rss_bytes": peak_rss_bytes(),
        "before_fit_bytes": before,  # Python, numpy, the filters' modules and the data
        "has_torch": "torch" in sys.modules,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
