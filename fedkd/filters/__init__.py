"""Client-side proxy filters."""

from __future__ import annotations

from collections.abc import Mapping

FILTERS: Mapping[str, str] = {
    "kmeans": "fedkd.filters.kmeans:KMeansFilter",
    "accept_all": "fedkd.filters.accept_all:AcceptAll",
    "oracle": "fedkd.filters.oracle:Oracle",
}
