"""What a selection saves: the bytes of shares, against those of shares with every row that was asked for."""

from __future__ import annotations

from typing import Any, final

import numpy as np

from fedkd import metric_names as m
from fedkd.exchange.codec import Codec
from fedkd.federation.border import Expected
from fedkd.rows import Rows, Share, Stream, stream_of


@final
class SelectionTally:
    """Rows of the shares, and the bytes that the same shares would have taken without any selection.

    The whole share of a client has all rows that were asked for in each of the trainer's streams but excerpts, in as
    many variants as it spoke with, without weights (which are part of a selection), and its record. Outside proxy space
    it has a row for each possible id, or those that were sent where ids have no limit.
    """

    def __init__(self, expected: Expected, codec: Codec) -> None:
        self._expected = expected
        self._codec = codec
        self._selected, self._unselected = 0, 0
        self._known: dict[tuple[Stream, int, int], int] = {}  # bytes of so many rows of a stream
        whole = [(stream, _whole(stream, expected)) for stream in expected.streams if not stream.is_excerpt]
        self._streams = [(stream, *sizes) for stream, sizes in whole]

    def add(self, share: Share) -> None:
        """Count one more share."""
        self._selected += sum(len(rows) for rows in share.rows)
        self._unselected += 0 if share.extra is None else share.extra.nbytes
        streams = [stream_of(rows, self._expected.streams) for rows in share.rows]
        for stream, size, largest in self._streams:
            if size is None:
                sent = [len(rows) for rows, found in zip(share.rows, streams, strict=True) if found == stream]
                self._unselected += sum(self._bytes(stream, number, largest) for number in sent)
            else:
                self._unselected += max(streams.count(stream), 1) * self._bytes(stream, size, largest)

    def numbers(self) -> dict[str, Any]:
        """Both sums."""
        return {m.SELECTED_ROWS: self._selected, m.UNSELECTED_BYTES: self._unselected}

    def _bytes(self, stream: Stream, size: int, largest: int) -> int:
        key = (stream, size, largest)
        if key not in self._known:
            self._known[key] = _bytes(stream, self._codec, size, largest)
        return self._known[key]


def _whole(stream: Stream, expected: Expected) -> tuple[int | None, int]:
    """How many rows the whole stream has, None where nobody can say, and its largest id."""
    if stream.space != "proxy":
        return stream.limit, 0
    if expected.asked is None:
        return 0, 0
    asked = expected.asked
    if stream.per_sample:
        asked = np.logical_or.reduce(asked.reshape(-1, expected.rows_per_sample), axis=1)
    return int(asked.sum()), len(expected.asked) - 1


def _bytes(stream: Stream, codec: Codec, size: int, largest: int) -> int:
    """Bytes of `size` rows: those of the first, and of each further one what two take more than one."""
    one, two = (codec.encode(_blank(stream, count, largest)).nbytes for count in (1, 2))
    return one + (size - 1) * (two - one) if size else 0


def _blank(stream: Stream, size: int, largest: int) -> Rows:
    """Some rows of the stream whose last id is the largest, or thereabouts."""
    is_hard = stream.kind == "hard"
    return Rows(
        space=stream.space,
        kind=stream.kind,
        ids=np.arange(size) + max(largest - size + 1, 0),
        values=np.full((size, stream.width), 0 if is_hard else 1 / stream.width, np.int32 if is_hard else np.float32),
        columns={name: np.zeros(size, np.float32) for name in stream.columns},
        support=np.tile(np.arange(stream.width - 1, dtype=np.int32), (size, 1)) if stream.has_support else None,
    )
