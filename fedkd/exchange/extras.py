"""Typed records that travel beside rows, as plain JSON. `from_json` is the only way in."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar, final

from fedkd.errors import BadReplyError
from fedkd.lookup import resolve
from fedkd.rows import Extra, Share

# Kind of the record to its class. Records of outside code have `package.module:Class` as their kind.
EXTRAS: Mapping[str, str] = {
    "acceptance": "fedkd.exchange.extras:Acceptance",
    "triples": "fedkd.exchange.extras:Triples",
    "subnet": "fedkd.exchange.extras:Subnet",
}
COUNT_LIMIT = 2**40  # no honest counter is larger
TEXT_LIMIT = 1000  # characters of one text
NUMBER_LIMIT = 1e6  # of a width, a budget or a threshold

R = TypeVar("R", bound="Record")


class Record(ABC):
    """What an `Extra` of its kind holds. Frozen; the classes in the table are final."""

    kind: ClassVar[str]

    @classmethod
    @abstractmethod
    def from_json(cls: type[R], data: Mapping[str, Any]) -> R:
        """The record; BadReplyError where `data` is not what `to_json` makes, or beyond reason."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Plain JSON: numbers, texts, lists and mappings."""


def extra_of(record: Record) -> Extra:
    """The record, ready to travel."""
    return Extra(kind=record.kind, data=record.to_json())


def record_of(extra: Extra, *, kinds: Iterable[str]) -> Record:
    """The record in an extra; BadReplyError where it is of none of `kinds`, or malformed.

    Args:
        kinds: what is expected. What a peer names beside these is never looked up: it could name any module.
    """
    wanted = sorted(kinds)
    if extra.kind not in wanted:
        raise BadReplyError(f"record is of kind {extra.kind!r:.60}, expected {' or '.join(wanted) or 'none'}")
    cls: type[Record] = resolve(EXTRAS, extra.kind, what="record")
    return cls.from_json(extra.data)


def records_of(shares: Iterable[Share], cls: type[R]) -> list[R]:
    """The records of a class that shares bring, in their order; the border has checked them."""
    return [cls.from_json(share.extra.data) for share in shares if share.extra and share.extra.kind == cls.kind]


@final
@dataclass(frozen=True, kw_only=True)
class Acceptance(Record):
    """Counters of speculative decoding: draft tokens that the target took, and that it did not. They add up."""

    kind: ClassVar[str] = "acceptance"
    accepted: int = 0
    rejected: int = 0

    @classmethod
    def total(cls, records: Iterable[Acceptance]) -> Acceptance:
        """The sums."""
        every = list(records)
        return cls(accepted=sum(r.accepted for r in every), rejected=sum(r.rejected for r in every))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Acceptance:
        """Two counters from 0 to `COUNT_LIMIT`."""
        _only(data, "acceptance", ("accepted", "rejected"))
        return cls(accepted=_count(data["accepted"]), rejected=_count(data["rejected"]))

    def to_json(self) -> dict[str, Any]:
        """Both counters."""
        return {"accepted": self.accepted, "rejected": self.rejected}


@final
@dataclass(frozen=True, kw_only=True)
class Triples(Record):
    """Text triples that a client's critic let pass.

    Attributes:
        triples: (head, relation, tail), none twice.
        theta: the critic's threshold, 0..1.
        counts: relation -> how many tails were generated for it, accepted or not.
    """

    kind: ClassVar[str] = "triples"
    triples: tuple[tuple[str, str, str], ...] = ()
    theta: float = 0.0
    counts: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Triples:
        """Triples of texts that are not empty and have at most `TEXT_LIMIT` characters."""
        _only(data, "triples", ("triples", "theta", "counts"))
        triples = []
        for each in _sequence(data["triples"], "triples"):
            head, relation, tail = _sequence(each, "a triple", length=3)
            triples.append((_text(head), _text(relation), _text(tail)))
        if len(set(triples)) != len(triples):
            raise BadReplyError("triples repeat")
        theta = _number(data["theta"])
        if theta > 1:
            raise BadReplyError(f"theta is {theta:g}, expected 0 to 1")
        counts = {_text(name): _count(count) for name, count in _mapping(data["counts"], "counts").items()}
        return cls(triples=tuple(triples), theta=theta, counts=counts)

    def to_json(self) -> dict[str, Any]:
        """Lists of three texts, threshold and counts."""
        triples = [list(triple) for triple in self.triples]
        return {"triples": triples, "theta": self.theta, "counts": dict(self.counts)}


@final
@dataclass(frozen=True, kw_only=True)
class Shape:
    """A sub-network: layers that it keeps, by position, the width of each part, and what it was cut to."""

    layers: tuple[bool, ...]
    widths: tuple[float, ...] = ()  # shares of the full width, or numbers of units: the method's affair
    budget: float = 1.0  # share of the full network, or what the method counts

    def to_json(self) -> dict[str, Any]:
        """Layers as 0 and 1."""
        return {"layers": [int(kept) for kept in self.layers], "widths": list(self.widths), "budget": self.budget}


@final
@dataclass(frozen=True, kw_only=True)
class Subnet(Record):
    """Shapes of the sub-networks that a client's rows come from, by variant of the rows."""

    kind: ClassVar[str] = "subnet"
    shapes: Mapping[str, Shape] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Subnet:
        """Shapes of finite numbers that are not negative."""
        _only(data, "subnet", ("shapes",))
        shapes = {}
        for variant, shape in _mapping(data["shapes"], "shapes").items():
            _only(_mapping(shape, "a shape"), "a shape", ("layers", "widths", "budget"))
            layers = _sequence(shape["layers"], "layers")
            if any(bit not in (0, 1) for bit in layers):
                raise BadReplyError("layers are no list of 0 and 1")
            shapes[str(variant)] = Shape(
                layers=tuple(bool(bit) for bit in layers),
                widths=tuple(_number(width) for width in _sequence(shape["widths"], "widths")),
                budget=_number(shape["budget"]),
            )
        return cls(shapes=shapes)

    def to_json(self) -> dict[str, Any]:
        """Each shape by its variant."""
        return {"shapes": {variant: shape.to_json() for variant, shape in self.shapes.items()}}


def _only(data: Mapping[str, Any], what: str, names: Sequence[str]) -> None:
    if set(data) != set(names):
        raise BadReplyError(f"{what} has the fields {sorted(map(str, data))!r:.200}, expected {', '.join(names)}")


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadReplyError(f"{what} is no mapping")
    return value


def _sequence(value: Any, what: str, *, length: int | None = None) -> Sequence[Any]:
    if not isinstance(value, list | tuple) or (length is not None and len(value) != length):
        raise BadReplyError(f"{what} is no list{'' if length is None else f' of {length}'}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= TEXT_LIMIT:
        raise BadReplyError(f"{value!r:.60} is no text of 1 to {TEXT_LIMIT} characters")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= COUNT_LIMIT:
        raise BadReplyError(f"{value!r:.60} is no count from 0 to {COUNT_LIMIT}")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not (0 <= value <= NUMBER_LIMIT and math.isfinite(value)):
        raise BadReplyError(f"{value!r:.60} is no number from 0 to {NUMBER_LIMIT:g}")
    return float(value)
