"""Rows on a coarser grid. A pooled cell is named by its first fine position, so that all rows share one set of ids."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedkd.rows import Rows
from fedkd.types import Array, Ids


def pool_rows(rows: Rows, *, grid: tuple[int, int], factor: int) -> Rows:
    """One row for each cell of `factor` x `factor` positions: the mean over those positions that have a row.

    Weights and columns are averaged alike. Cells at the lower and right edge may be smaller.

    Args:
        rows: of any kind whose values have a mean; ids are sample * height * width + position.
        grid: (height, width) of the positions.
    """
    cells, inverse, count = np.unique(_cell(rows.ids, grid, factor), return_inverse=True, return_counts=True)
    starts = np.cumsum(count) - count
    order = np.argsort(inverse.reshape(-1), kind="stable")

    def mean(values: Array) -> Array:
        total = np.add.reduceat(values[order].astype(np.float64), starts, axis=0) if len(cells) else values[order]
        averaged: Array = (total / count.reshape(-1, *[1] * (values.ndim - 1))).astype(np.float32)
        return averaged

    return replace(
        rows,
        ids=cells,
        values=mean(rows.values),
        weight=None if rows.weight is None else mean(rows.weight),
        columns={name: mean(column) for name, column in rows.columns.items()},
    )


def spread_rows(rows: Rows, *, grid: tuple[int, int], factor: int) -> Rows:
    """Each pooled row at all positions of its cell, with its weight and columns: nearest-neighbour upsampling."""
    height, width = grid
    down, right = (offset.reshape(-1) for offset in np.mgrid[:factor, :factor])
    position = rows.ids % (height * width)
    inside = (position[:, None] // width + down < height) & (position[:, None] % width + right < width)
    ids = (rows.ids[:, None] + down * width + right)[inside]
    source = np.broadcast_to(np.arange(len(rows))[:, None], inside.shape)[inside]
    order = np.argsort(ids)
    at = source[order]
    return replace(
        rows,
        ids=ids[order],
        values=rows.values[at],
        weight=None if rows.weight is None else rows.weight[at],
        columns={name: column[at] for name, column in rows.columns.items()},
        support=None if rows.support is None else rows.support[at],
    )


def _cell(ids: Ids, grid: tuple[int, int], factor: int) -> Ids:
    """The id of the first position of each id's cell."""
    height, width = grid
    sample, position = np.divmod(ids, height * width)
    y, x = np.divmod(position, width)
    cells: Ids = sample * height * width + (y - y % factor) * width + (x - x % factor)
    return cells
