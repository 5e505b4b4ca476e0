"""Where the mini-batches of one pass over data begin."""

from __future__ import annotations


def batch_starts(size: int, batch: int) -> range:
    """First positions of the batches of one pass over `size` positions; the last batch may be short.

    A last batch of a single position is left out: batch norm cannot train on it. It stays where there is no other.
    """
    return range(0, size - 1 if size > 1 and batch > 1 else size, batch)
