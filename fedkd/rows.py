"""What crosses the wire: rows, shares and knowledge.

This module is the ground that tasks, filters, methods and exchange all stand on, so it imports none of them and no
torch: values are NumPy arrays, and whoever trains on them turns them into tensors once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias, get_args

from fedkd.types import Array, Ids, Mask, Metrics

Space: TypeAlias = Literal["proxy", "class", "prototype", "own_batch", "params", "text"]
Kind: TypeAlias = Literal["logits", "probs", "log_probs", "hard", "feature", "noise", "score"]
SPACES: frozenset[str] = frozenset(get_args(Space))
KINDS: frozenset[str] = frozenset(get_args(Kind))
SHARE_SCHEMA = 1  # bumped on any change of meaning


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

    def __post_init__(self) -> None:
        if self.ids.ndim != 1 or self.values.ndim != 2 or len(self.ids) != len(self.values):
            raise ValueError(f"ids {self.ids.shape} and values {self.values.shape} must be (n,) and (n, c)")
        if self.weight is not None and self.weight.shape not in {self.ids.shape, self.values.shape}:
            raise ValueError(f"weight {self.weight.shape} must be (n,) or (n, c) for values {self.values.shape}")
        for name, column in self.columns.items():
            if column.shape != self.ids.shape:
                raise ValueError(f"column {name!r} has shape {column.shape}, expected {self.ids.shape}")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def stream(self) -> tuple[str, str, str]:
        """What must be equal for rows of several clients to be combined: (space, kind, variant)."""
        return (self.space, self.kind, self.variant)

    def where(self, keep: Mask) -> Rows:
        """The rows whose mask (n,) is true, with their weights and columns."""
        return replace(
            self,
            ids=self.ids[keep],
            values=self.values[keep],
            weight=None if self.weight is None else self.weight[keep],
            columns={name: column[keep] for name, column in self.columns.items()},
        )


@dataclass(frozen=True, kw_only=True)
class Extra:
    """A typed record beside the rows (text triples, the shape of a sub-network): plain JSON values, never a pickle."""

    kind: str
    data: Mapping[str, object]


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
    """What the server answers: rows for everyone, and rows for single clients."""

    common: tuple[Rows, ...] = ()
    per_client: Mapping[int, tuple[Rows, ...]] = field(default_factory=dict)

    def seen_by(self, client_id: int) -> Knowledge:
        """The part of the knowledge that travels to one client."""
        own = self.per_client.get(client_id)
        return Knowledge(common=self.common, per_client={} if own is None else {client_id: own})

    def rows(self, space: Space) -> tuple[Rows, ...]:
        """All non-empty rows of a space, those for everyone first. Call it on what one client sees."""
        every: Iterable[Rows] = (*self.common, *(rows for own in self.per_client.values() for rows in own))
        return tuple(rows for rows in every if rows.space == space and len(rows))

    @property
    def is_empty(self) -> bool:
        """True before the first aggregation, and where nobody said anything."""
        return not any(len(rows) for rows in self.common) and not any(
            len(rows) for own in self.per_client.values() for rows in own
        )
