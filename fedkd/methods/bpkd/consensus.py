"""Edge and body streams: those that a client sends, and what the federation answers, joined to maps again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedkd.functional.bpkd import body_rows, confidence, edge_rows, join_streams, place_bodies, place_edges
from fedkd.methods.bpkd.config import BPKDConfig
from fedkd.methods.bpkd.stages import predicted_band
from fedkd.methods.taught import Taught
from fedkd.rows import Rows
from fedkd.tasks.segmentation import Segmentation
from fedkd.types import Ids

EDGE, BODY = "edge", "body"  # variants of the selective share; "" is dense
_SAMPLES, _BANDS = "samples", "bands"  # of the stored bands
VOTERS = "voters"  # the column of aggregated rows that says how many clients spoke


@final
class Consensus:
    """Aggregated rows as dense logits, image by image. Its length is the number of images that anything is known of.

    Each pixel of a dense share (the main variant) counts as one of the edge stream.
    """

    def __init__(self, heard: Sequence[Rows], task: Segmentation, *, factor: int) -> None:
        self._grid, self._factor, self._width = task.grid, factor, task.num_outputs
        by_variant = {rows.variant: rows for rows in heard}
        pixels, cells = by_variant.get("", by_variant.get(EDGE)), by_variant.get(BODY)
        self._has_voters = all(rows is None or VOTERS in rows.columns for rows in (pixels, cells))
        per_sample = task.rows_per_sample
        self._pixels, self._cells = (
            None if rows is None else Taught(_with_voters(rows), per_sample) for rows in (pixels, cells)
        )
        known = [taught.sample_ids for taught in (self._pixels, self._cells) if taught is not None]
        self.sample_ids: Ids = np.unique(np.concatenate([np.zeros(0, np.int64), *known]))

    def __len__(self) -> int:
        return len(self.sample_ids)

    def batch(self, index: Ids) -> tuple[Float[Tensor, "b c h w"], Bool[Tensor, "b h w"]]:
        """Logits of the images at `index` (b,), positions in range(len(self)), and where anyone spoke."""
        samples, shape = self.sample_ids[index], (len(index), *self._grid)
        edge, at_edge = place_edges(*self._rows(self._pixels, samples), shape=shape)
        body, in_body = place_bodies(*self._rows(self._cells, samples), shape=shape, factor=self._factor)
        voters = (edge[:, -1], body[:, -1]) if self._has_voters else None
        return join_streams((edge[:, :-1], at_edge), (body[:, :-1], in_body), voters=voters)

    def bands(self, task: Segmentation, *, width: int) -> dict[str, Tensor]:
        """The edge band of every image that is known, by the arg max, as it is kept for the next share."""
        step, found = task.block(len(self) or 1), [torch.zeros(0, *self._grid, dtype=torch.bool)]
        for start in range(0, len(self), step):
            logits, present = self.batch(np.arange(start, min(start + step, len(self))))
            found.append(predicted_band(logits, task.shape, width=width, present=present))
        return {_SAMPLES: torch.from_numpy(self.sample_ids), _BANDS: torch.cat(found)}

    def _rows(self, taught: Taught | None, samples: Ids) -> tuple[Tensor, Tensor]:
        """Positions in the batch and values, voters last, of what is known about these samples."""
        if taught is None or not len(taught):
            return torch.zeros(0, dtype=torch.int64), torch.zeros(0, self._width + 1)
        known = np.flatnonzero(np.isin(samples, taught.sample_ids))
        found = taught.batch(np.searchsorted(taught.sample_ids, samples[known]))
        positions = known[found.sample] * found.rows_per_sample + found.position
        return torch.from_numpy(positions), torch.from_numpy(found.values)


def no_bands(task: Segmentation) -> dict[str, Tensor]:
    """What is kept before anything was heard."""
    return {_SAMPLES: torch.zeros(0, dtype=torch.int64), _BANDS: torch.zeros(0, *task.grid, dtype=torch.bool)}


def dense_rows(rows: Rows) -> Rows:
    """Every pixel, weighted by confidence."""
    return _weighted(rows, torch.from_numpy(rows.values))


def selected_rows(config: BPKDConfig, rows: Rows, task: Segmentation, heard: dict[str, Tensor]) -> tuple[Rows, ...]:
    """The streams `edge` (a row per pixel of the band) and `body` (a row per cell, named by its first pixel).

    The band is that of the last consensus where it spoke of the image, else that of the client's own arg max.

    Args:
        rows: logits on the grid, any pixels of any images.
        heard: the bands of `Consensus.bands`.
    """
    per_sample = task.rows_per_sample
    taught = Taught(rows, per_sample)
    values, known = taught.batch(np.arange(len(taught))).dense()
    logits = torch.from_numpy(values).view(len(taught), *task.grid, task.num_outputs).movedim(-1, 1)
    said = torch.from_numpy(known).view(len(taught), *task.grid)
    band = predicted_band(logits, task.shape, width=config.edge_width, present=said)
    others = heard[_SAMPLES].numpy()
    shared, own, theirs = np.intersect1d(taught.sample_ids, others, return_indices=True)
    if len(shared):
        band[torch.from_numpy(own)] = heard[_BANDS][torch.from_numpy(theirs)]
    streams = []
    for variant, (positions, picked) in (
        (EDGE, edge_rows(logits, band & said)),
        (BODY, body_rows(logits, band | ~said, factor=config.body_factor)),
    ):
        at = positions.numpy()
        ids = taught.sample_ids[at // per_sample] * per_sample + at % per_sample
        streams.append(_weighted(replace(rows, ids=ids, values=picked.numpy(), variant=variant), picked))
    return tuple(streams)


def _weighted(rows: Rows, logits: Tensor) -> Rows:
    return replace(rows, weight=confidence(logits).clamp_max(1.0).numpy())


def _with_voters(rows: Rows) -> Rows:
    """The rows with their voters as one more value, 0 where they do not say."""
    voters = rows.columns.get(VOTERS, np.zeros(len(rows), np.float32))
    return replace(rows, values=np.concatenate([rows.values, voters[:, None].astype(np.float32)], axis=1), columns={})
