"""What the set-up found out: constant for the whole run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedkd.data.base import Samples
from fedkd.federation.store import StateRef
from fedkd.types import Array


@dataclass(frozen=True, eq=False, kw_only=True)
class Setting:
    """What the set-up found out; it holds for the whole run.

    Attributes:
        proxy: the merged set, without labels; None where the experiment has none.
        labels: classes or groups of the proxy samples, where diagnostics are allowed. They never leave the
            coordinator, except for the oracle.
        accepted: client -> mask (p,) of the samples that its filter accepts. A client that failed is absent.
        refs: client -> where its set-up state lies.
    """

    proxy: Samples | None = None
    version: str = ""
    labels: Array | None = None
    accepted: Mapping[int, Array] = field(default_factory=dict)
    refs: Mapping[int, StateRef] = field(default_factory=dict)

    def to_tree(self) -> dict[str, Any]:
        """Plain arrays and texts."""
        return {
            "proxy": None if self.proxy is None else self.proxy.arrays(),
            "version": self.version,
            "labels": self.labels,
            "accepted": {str(i): mask for i, mask in self.accepted.items()},
            "refs": {str(i): ref.to_json() for i, ref in self.refs.items()},
        }

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> Setting:
        """What `to_tree` made."""
        refs = {int(i): StateRef.from_json(ref) for i, ref in tree["refs"].items()}
        return cls(
            proxy=None if tree["proxy"] is None else Samples.of_arrays(tree["proxy"]),
            version=tree["version"],
            labels=tree["labels"],
            accepted={int(i): mask for i, mask in tree["accepted"].items()},
            refs={i: ref for i, ref in refs.items() if ref is not None},
        )
