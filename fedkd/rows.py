"""What crosses the wire: rows, shares and knowledge; and how a trainer declares what it shares.

This module is the ground that tasks, filters, methods and exchange all stand on, so it imports none of them and no
torch: values are NumPy arrays, and whoever trains on them turns them into tensors once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeAlias, get_args

from fedkd.types import Array, Ids, Mask, Metrics

Space: TypeAlias = Literal["proxy", "class", "prototype", "own_batch", "params", "text"]
Kind: TypeAlias = Literal["logits", "probs", "log_probs", "hard", "feature", "noise", "score"]
SPACES: frozenset[str] = frozenset(get_args(Space))
KINDS: frozenset[str] = frozenset(get_args(Kind))
SHARE_SCHEMA = 2  # bumped on any change of meaning


@dataclass(frozen=True, eq=False, kw_only=True)
class Rows:
    """Vectors with an identity: n rows of c values each.

    Attributes:
        space: what the ids count (positions of the proxy set, classes, prototypes, ...).
        kind: what the values are; codecs, losses and combiners declare the kinds that they accept. `hard` holds class
            numbers, one column.
        ids: (n,) int64, unique and ascending. In proxy space `sample_index * rows_per_sample + position`.
        values: (n, c) float32 (`hard`: (n, 1) int32).
        variant: names a second opinion of the same client (a budget, a stream); "" is the main one.
        weight: (n,) or (n, c) float32, >= 0; None stands for one everywhere and costs nothing on the wire.
        columns: named per-row scalars, each (n,).
        support: (n, k) int32, of log_probs only: the columns, ascending, that values[:, :k] speak for; values[:, k] is
            the logarithm of what is left for all others together (top k and a tail).

    Raises:
        ValueError: the shapes do not belong together.
    """

    space: Space
    kind: Kind
    ids: Ids
    values: Array
    variant: str = ""
    weight: Array | None = None
    columns: Mapping[str, Array] = field(default_factory=dict)
    support: Array | None = None

    def __post_init__(self) -> None:
        if self.ids.ndim != 1 or self.values.ndim != 2 or len(self.ids) != len(self.values):
            raise ValueError(f"ids {self.ids.shape} and values {self.values.shape} must be (n,) and (n, c)")
        if self.weight is not None and self.weight.shape not in {self.ids.shape, self.values.shape}:
            raise ValueError(f"weight {self.weight.shape} must be (n,) or (n, c) for values {self.values.shape}")
        for name, column in self.columns.items():
            if column.shape != self.ids.shape:
                raise ValueError(f"column {name!r} has shape {column.shape}, expected {self.ids.shape}")
        if self.support is not None and (
            self.kind != "log_probs" or self.support.shape != (len(self.ids), self.values.shape[1] - 1)
        ):
            raise ValueError(
                f"support {self.support.shape} must be (n, c - 1), of log_probs, for {self.kind} {self.values.shape}"
            )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def stream(self) -> tuple[str, str, str]:
        """What must be equal for rows of several clients to be combined: (space, kind, variant)."""
        return (self.space, self.kind, self.variant)

    def where(self, keep: Mask) -> Rows:
        """The rows whose mask (n,) is true, with their weights, columns and support."""
        return replace(
            self,
            ids=self.ids[keep],
            values=self.values[keep],
            weight=None if self.weight is None else self.weight[keep],
            columns={name: column[keep] for name, column in self.columns.items()},
            support=None if self.support is None else self.support[keep],
        )

    def to_tree(self) -> dict[str, Any]:
        """The fields, for a stored state; `Rows(**tree)` is the way back."""
        return {each.name: getattr(self, each.name) for each in fields(self)} | {"columns": dict(self.columns)}


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One kind of rows that a trainer shares: what the server expects, and what it combines.

    Attributes:
        width: columns of the values; k + 1 with a support. Of `hard` it is 1.
        variant: the only one that belongs to it, unless `many_variants`.
        per_sample: one row for each proxy sample though its task has several: id = sample * rows_per_sample.
        limit: ids lie below it, outside proxy space; None allows any that is not negative (hashes of texts).
        columns: that may travel. Others are dropped at the client and refused at the border.
        has_support: the rows name the columns that they speak for, see `Rows.support`.
        is_last_layer: features as the student's last linear layer is given them; that students agree in their width is
            checked before a run.
        is_excerpt: what it says would be said in another stream if nothing were selected, so an unselected share has it
            not.
    """

    space: Space
    kind: Kind
    width: int
    variant: str = ""
    many_variants: bool = False
    per_sample: bool = False
    limit: int | None = None
    columns: frozenset[str] = frozenset()
    has_support: bool = False
    is_last_layer: bool = False
    is_excerpt: bool = False


def stream_of(rows: Rows, streams: Iterable[Stream]) -> Stream | None:
    """The stream that rows belong to: of their very variant, else one with many variants; None where there is none."""
    alike = [stream for stream in streams if (stream.space, stream.kind) == (rows.space, rows.kind)]
    exact = (stream for stream in alike if stream.variant == rows.variant)
    return next(exact, next((stream for stream in alike if stream.many_variants), None))


def json_bytes(value: object) -> int:
    """Length of a value as compact JSON text: what records count as payload."""
    return len(json.dumps(value, separators=(",", ":")))


@dataclass(frozen=True, kw_only=True)
class Extra:
    """A typed record beside the rows (text triples, the shape of a sub-network): plain JSON values, never a pickle.

    `kind` names the record, see `fedkd.exchange.extras`.
    """

    kind: str
    data: Mapping[str, object]

    @property
    def nbytes(self) -> int:
        """Payload bytes: the length of the compact JSON text."""
        return json_bytes(self.to_json())

    def to_json(self) -> list[Any]:
        """[kind, data]."""
        return [self.kind, dict(self.data)]

    @classmethod
    def from_json(cls, value: Sequence[Any]) -> Extra:
        """What `to_json` made; an ordinary error (ValueError, TypeError, IndexError) where it is garbled."""
        kind, data = value
        return cls(kind=str(kind), data=dict(data))


@dataclass(frozen=True, eq=False, kw_only=True)
class Share:
    """What one client says in one round. No rows at all is legal: a client that accepts nothing has nothing to say."""

    client_id: int
    round_id: int
    rows: tuple[Rows, ...] = ()
    extra: Extra | None = None
    metrics: Metrics = field(default_factory=dict)
    schema: int = SHARE_SCHEMA


@dataclass(frozen=True, eq=False, kw_only=True)
class Knowledge:
    """What the server answers: rows for everyone, rows for single clients, and records for everyone."""

    common: tuple[Rows, ...] = ()
    per_client: Mapping[int, tuple[Rows, ...]] = field(default_factory=dict)
    extras: tuple[Extra, ...] = ()

    def seen_by(self, client_id: int) -> Knowledge:
        """The part of the knowledge that travels to one client."""
        own = self.per_client.get(client_id)
        return replace(self, per_client={} if own is None else {client_id: own})

    def rows(self, space: Space) -> tuple[Rows, ...]:
        """All non-empty rows of a space, those for everyone first. Call it on what one client sees."""
        every: Iterable[Rows] = (*self.common, *(rows for own in self.per_client.values() for rows in own))
        return tuple(rows for rows in every if rows.space == space and len(rows))

    @property
    def is_empty(self) -> bool:
        """True before the first aggregation, and where nobody said anything."""
        every = (self.common, *self.per_client.values())
        return not self.extras and not any(len(rows) for own in every for rows in own)
