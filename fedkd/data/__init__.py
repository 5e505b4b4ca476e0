"""Data sets, partitions, the proxy set and the roles of a client's data."""

from __future__ import annotations

from collections.abc import Mapping

DATASETS: Mapping[str, str] = {
    "digits": "fedkd.data.digits:load_digits",
}

PARTITIONS: Mapping[str, str] = {
    "strong": "fedkd.data.partitions:Strong",
    "weak": "fedkd.data.partitions:Weak",
    "iid": "fedkd.data.partitions:Iid",
    "dirichlet": "fedkd.data.partitions:Dirichlet",
}
