"""The messages of the set-up, typed: what clients give to the proxy set, and what they make of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedkd.data.base import Samples
from fedkd.errors import BadReplyError
from fedkd.federation.messages import GARBLED
from fedkd.federation.store import StateRef
from fedkd.federation.wire import Parcel
from fedkd.filters.selection import OWN_MARGIN, SCORE_BINS
from fedkd.types import Array, Mask


@dataclass(frozen=True, eq=False)
class Contribution:
    """What a client offers to the proxy set. `labels` (classes or groups) come only where diagnostics are allowed."""

    inputs: Samples
    labels: Array | None = None

    def to_parcel(self) -> Parcel:
        """The inputs' arrays and, if any, labels."""
        labels = {} if self.labels is None else {"labels": self.labels}
        return Parcel({}, self.inputs.arrays() | labels)

    @classmethod
    def from_parcel(cls, parcel: Parcel) -> Contribution:
        """Checked: finite inputs (float32, or whole numbers), all of one length, one label each, no targets."""
        arrays = dict(parcel.arrays)
        labels = arrays.pop("labels", None)
        x = arrays.get("x")
        if x is None or x.ndim < 2 or "y" in arrays or "groups" in arrays:
            raise BadReplyError("contribution has no array x (n, ...), or it holds targets")
        for name, array in arrays.items():
            if array.shape[:1] != x.shape[:1] or not (array.dtype.kind in "ib" or array.dtype == np.float32):
                raise BadReplyError(f"contribution has {name} {array.shape} of {array.dtype} for inputs {x.shape}")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise BadReplyError(f"contribution has NaN or infinite values in {name}")
        if labels is not None and (labels.shape != x.shape[:1] or labels.dtype.kind != "i"):
            raise BadReplyError(f"contribution has labels {labels.shape} for inputs {x.shape}")
        return cls(Samples.of_arrays(arrays), labels=labels)


@dataclass(frozen=True, eq=False, kw_only=True)
class SetupResult:
    """What a client's filter made of the proxy set: computed once, before the first round."""

    ref: StateRef
    accepted: Mask
    threshold: float
    holdout_counts: Array
    proxy_counts: Array
    seconds: float
    margin: Array | None = None  # (p,) float32, where the coordinator is to compare clients (rule `nearest`)

    def to_parcel(self) -> Parcel:
        """The mask travels as bits."""
        header = {
            "ref": self.ref.to_json(),
            "size": len(self.accepted),
            "threshold": self.threshold,
            "seconds": self.seconds,
        }
        arrays: dict[str, Array] = {
            "accepted": np.packbits(self.accepted),
            "holdout_counts": self.holdout_counts.astype(np.int32),
            "proxy_counts": self.proxy_counts.astype(np.int32),
        }
        return Parcel(header, arrays if self.margin is None else {**arrays, "margin": self.margin})

    @classmethod
    def from_parcel(cls, parcel: Parcel) -> SetupResult:
        """Checked for completeness; the coordinator compares the size with the proxy set."""
        header, arrays = parcel.header, parcel.arrays
        try:
            ref = StateRef.from_json(header["ref"])
            size, bits = int(header["size"]), arrays["accepted"]
            if ref is None or bits.shape != (-(-size // 8),):
                raise ValueError("state reference or mask")
            counts = [arrays["holdout_counts"], arrays["proxy_counts"]]
            if any(each.shape != (len(SCORE_BINS) - 1,) or each.dtype.kind != "i" for each in counts):
                raise ValueError("score counts")
            margin = arrays.get("margin")
            if margin is not None and (
                margin.shape != (size,) or margin.dtype.kind != "f" or not (np.abs(margin) <= OWN_MARGIN).all()
            ):
                raise ValueError("margins")
            return cls(
                ref=ref,
                margin=margin,
                accepted=np.unpackbits(bits, count=size).astype(bool),
                threshold=float(header["threshold"]),
                holdout_counts=counts[0],
                proxy_counts=counts[1],
                seconds=float(header["seconds"]),
            )
        except GARBLED as error:
            raise BadReplyError(f"set-up reply lacks or garbles {error}") from error


@dataclass(frozen=True, eq=False, kw_only=True)
class Assignment:
    """Which proxy samples the coordinator lets one client speak for, and the set-up state that this changes."""

    ref: StateRef
    accepted: Mask

    def to_parcel(self) -> Parcel:
        """The mask travels as bits."""
        return Parcel({"ref": self.ref.to_json(), "size": len(self.accepted)}, {"accepted": np.packbits(self.accepted)})

    @classmethod
    def from_parcel(cls, parcel: Parcel) -> Assignment:
        """Checked for completeness."""
        try:
            ref = StateRef.from_json(parcel.header["ref"])
            size, bits = int(parcel.header["size"]), parcel.arrays["accepted"]
            if ref is None or bits.shape != (-(-size // 8),):
                raise ValueError("state reference or mask")
            return cls(ref=ref, accepted=np.unpackbits(bits, count=size).astype(bool))
        except GARBLED as error:
            raise BadReplyError(f"assignment lacks or garbles {error}") from error
