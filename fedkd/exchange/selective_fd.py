"""Selective-FD on the server: the mean over accepting clients, without the samples that they disagree on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, final

import numpy as np

from fedkd.checks import check_choice, check_range
from fedkd.exchange.combine import Combination
from fedkd.exchange.scheme import ServerContext, ServerScheme, ServerState
from fedkd.functional.selection import certain_mask
from fedkd.metric_names import SELECTED
from fedkd.rows import Knowledge, Rows, Share
from fedkd.types import Array


@dataclass(frozen=True, kw_only=True)
class SelectiveFdConfig:
    """Shao, Wu, Zhang 2024. A threshold of 2 in the L1 form switches the server selector off: no row is farther."""

    selector: str = "l1"  # l1: distance to the own one-hot; entropy: in nats
    threshold: float = 2.0  # tau_server (l1, 0..2) or eta (entropy, >= 0); rows above it are dropped
    hard_target: str = "share"  # of hard labels: share of the votes, or argmax of them

    def __post_init__(self) -> None:
        check_choice("selector", self.selector, ("l1", "entropy"))
        check_range("threshold", self.threshold, low=0.0)
        check_choice("hard_target", self.hard_target, ("share", "argmax"))


@final
class SelectiveFd(ServerScheme):
    """t(i) = mean of the accepting clients' probabilities, or the share of their hard votes; ambiguous rows dropped."""

    Config: ClassVar[type] = SelectiveFdConfig
    spaces = frozenset({"proxy"})
    kinds = frozenset({"probs", "hard"})
    gives = frozenset({"probs"})
    one_pass = True

    def __init__(self, config: SelectiveFdConfig) -> None:
        self.config = config

    def init(self, ctx: ServerContext) -> ServerState:  # noqa: ARG002 - the contract's arguments
        """Nothing."""
        return {}

    def step(self, ctx: ServerContext, state: ServerState, shares: Iterable[Share]) -> tuple[ServerState, Knowledge]:
        """The kept rows of each stream."""
        streams: dict[tuple[str, str, str], Combination] = {}
        for share in shares:
            for rows in share.rows:
                if len(rows):
                    soft = one_hot_rows(rows, ctx.num_classes) if rows.kind == "hard" else rows
                    streams.setdefault(rows.stream, Combination()).add(soft)
        common = []
        for stream in sorted(streams):
            is_hard, mean = stream[1] == "hard", streams[stream].result()
            keep = certain_mask(mean.values, form=self.config.selector, threshold=self.config.threshold)
            if not mean.variant:
                ctx.emit({SELECTED: float(keep.mean())})
            mean = mean.where(keep)
            if is_hard and self.config.hard_target == "argmax":
                mean = replace(mean, values=_one_hot(mean.values.argmax(axis=1), ctx.num_classes))
            common.append(mean)
        return state, Knowledge(common=tuple(common))


def one_hot_rows(rows: Rows, num_classes: int) -> Rows:
    """Hard labels (n, 1) as one-hot probabilities (n, c)."""
    weight = None if rows.weight is None else rows.weight.reshape(-1)  # (n, 1) is legal for one column, not for c
    return replace(rows, kind="probs", values=_one_hot(rows.values[:, 0], num_classes), weight=weight)


def _one_hot(labels: Array, num_classes: int) -> Array:
    one_hot = np.zeros((len(labels), num_classes), np.float32)
    one_hot[np.arange(len(labels)), labels] = 1
    return one_hot
