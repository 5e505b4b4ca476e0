"""Codecs turn rows into the arrays that travel, and back. Bytes are counted on exactly these arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from fedkd.rows import Rows
from fedkd.types import Array


@dataclass(frozen=True, eq=False)
class Encoded:
    """Rows ready to travel: a small JSON header and named arrays."""

    header: Mapping[str, object]
    arrays: Mapping[str, Array]

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, as they are serialised."""
        return sum(array.nbytes for array in self.arrays.values())


class Codec(ABC):
    """Construct with `cls(config)`."""

    Config: ClassVar[type]
    kinds: ClassVar[frozenset[str]]  # kinds of rows that it can carry

    @abstractmethod
    def encode(self, rows: Rows) -> Encoded:
        """The travelling form of rows of an accepted kind."""

    @abstractmethod
    def decode(self, encoded: Encoded) -> Rows:
        """Rows from the travelling form; BadReplyError where it is malformed."""
