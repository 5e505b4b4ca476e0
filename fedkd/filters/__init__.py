"""Client-side proxy filters."""

from __future__ import annotations

from collections.abc import Mapping

FILTERS: Mapping[str, str] = {
    "kmeans": "fedkd.filters.kmeans:KMeansFilter",
    "kulsif": "fedkd.filters.kulsif:KulsifFilter",
    "ulsif": "fedkd.filters.ulsif:UlsifFilter",
    "accept_all": "fedkd.filters.accept_all:AcceptAll",
    "oracle": "fedkd.filters.oracle:Oracle",
}
