"""The selective share of BPKD: the edge band pixel by pixel, bodies averaged over cells, both joined again."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedkd.functional.bpkd import (
    body_rows,
    confidence,
    edge_rows,
    join_streams,
    place_bodies,
    place_edges,
)
from fedkd.types import Array

HALVES = torch.tensor([[[0, 0, 1, 1]] * 4])  # left half class 0, right half class 1


def test_rows_of_a_band_by_hand() -> None:
    logits = torch.arange(16.0).view(1, 2, 2, 4)  # class 0: 0..7, class 1: 8..15
    band = torch.tensor([[[False, True, False, False], [True, True, False, False]]])
    positions, rows = edge_rows(logits, band)
    assert positions.tolist() == [1, 4, 5]
    assert rows.tolist() == [[1, 9], [4, 12], [5, 13]]
    positions, rows = body_rows(logits, band, factor=2)
    assert positions.tolist() == [0, 2]
    assert rows.tolist() == [[0, 8], [(2 + 3 + 6 + 7) / 4, (10 + 11 + 14 + 15) / 4]]


def test_a_cell_all_in_the_band_is_left_out_and_a_cut_cell_is_the_mean_of_its_pixels() -> None:
    logits = torch.arange(15.0).view(1, 1, 3, 5)
    band = torch.zeros(1, 3, 5, dtype=torch.bool)
    band[0, :2, :2] = True
    positions, rows = body_rows(logits, band, factor=2)
    assert positions.tolist() == [2, 4, 10, 12, 14]
    assert rows[:, 0].tolist() == [(2 + 3 + 7 + 8) / 4, (4 + 9) / 2, (10 + 11) / 2, (12 + 13) / 2, 14]


@settings(max_examples=40, deadline=None)
@given(
    band=arrays(np.bool_, (2, 5, 7), elements=st.booleans()),
    logits=arrays(np.float32, (2, 3, 5, 7), elements=st.floats(-100, 100, width=32)),
    factor=st.integers(1, 8),
)
def test_both_streams_together_cover_the_map_and_come_back(band: Array, logits: Array, factor: int) -> None:
    z, in_band, shape = torch.from_numpy(logits), torch.from_numpy(band), (2, 5, 7)
    edge, body = edge_rows(z, in_band), body_rows(z, in_band, factor=factor)
    for positions, rows in (edge, body):
        assert (positions.diff() > 0).all()
        assert len(positions) == len(rows)
    placed = place_edges(*edge, shape=shape)
    assert torch.equal(placed[1], in_band)
    dense, present = join_streams(placed, place_bodies(*body, shape=shape, factor=factor))
    assert present.all()
    assert torch.equal(dense.movedim(1, -1)[in_band], z.movedim(1, -1)[in_band])
    again = body_rows(dense, in_band, factor=factor)
    assert torch.equal(again[0], body[0])
    torch.testing.assert_close(again[1], body[1], rtol=1e-5, atol=1e-4)
    if factor == 1:
        assert torch.equal(dense, z)


def test_clients_heard_on_the_image_who_did_not_send_a_pixel_meant_its_cell() -> None:
    # Pixels: one of three clients sent it; all did; nobody did; all did, but the cell has no voter; nobody spoke;
    # one client sent it and a cell all in its band, so that the cell has the two other voters.
    edge_at = torch.tensor([[[True, True, False, True, False, True]]])
    edge = torch.tensor([6.0, 6.0, 0.0, 6.0, 0.0, 6.0]).view(1, 1, 1, 6), edge_at
    body_at = torch.tensor([[[True, True, True, False, False, True]]])
    body = torch.tensor([3.0, 3.0, 3.0, 0.0, 0.0, 3.0]).view(1, 1, 1, 6), body_at
    voters = torch.tensor([[[1.0, 3.0, 0.0, 3.0, 0.0, 1.0]]]), torch.tensor([[[3.0, 3.0, 3.0, 0.0, 0.0, 2.0]]])
    dense, present = join_streams(edge, body, voters=voters)
    assert dense.flatten().tolist() == [(6 + 2 * 3) / 3, 6, 3, 6, 0, (6 + 2 * 3) / 3]
    assert present.flatten().tolist() == [True, True, True, True, False, True]
    assert join_streams(edge, body)[0].flatten().tolist() == [6, 6, 3, 6, 0, 6]


def test_each_image_has_its_own_number_of_clients() -> None:
    at = torch.ones(2, 1, 2, dtype=torch.bool)
    edge, body = torch.full((2, 1, 1, 2), 6.0), torch.zeros(2, 1, 1, 2)
    voters = torch.tensor([[[1.0, 1.0]], [[1.0, 1.0]]]), torch.tensor([[[2.0, 1.0]], [[4.0, 4.0]]])
    dense, _ = join_streams((edge, at), (body, at), voters=voters)
    assert dense.flatten().tolist() == [3, 3, 1.5, 1.5]


@settings(max_examples=30, deadline=None)
@given(bands=arrays(np.bool_, (3, 1, 4, 6), elements=st.booleans()), factor=st.integers(1, 3))
def test_clients_who_agree_are_heard_unchanged_whatever_their_bands(bands: Array, factor: int) -> None:
    # All say the same and every body is flat, so averaging by stream and joining must return what each of them said.
    shape, said = (1, 4, 6), torch.tensor([2.0, -5.0])
    flat = said.view(1, 2, 1, 1).expand(1, 2, 4, 6)
    counts = torch.zeros(2, *shape)
    for band in torch.from_numpy(bands):
        counts[0] += place_edges(*edge_rows(flat, band), shape=shape)[1]
        counts[1] += place_bodies(*body_rows(flat, band, factor=factor), shape=shape, factor=factor)[1]
    streams = [(flat * (count > 0).unsqueeze(1), count > 0) for count in counts]
    dense, present = join_streams(streams[0], streams[1], voters=(counts[0], counts[1]))
    assert present.all()
    torch.testing.assert_close(dense, flat)


def test_streams_of_half_precision_join() -> None:
    logits, band = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0)).half(), HALVES == 1
    dense, _ = join_streams(
        place_edges(*edge_rows(logits, band), shape=(1, 4, 4)),
        place_bodies(*body_rows(logits, band, factor=1), shape=(1, 4, 4), factor=1),
    )
    assert torch.equal(dense, logits.float())


def test_no_rows_place_nothing() -> None:
    logits, present = place_edges(torch.zeros(0, dtype=torch.long), torch.zeros(0, 3), shape=(2, 4, 4))
    assert logits.shape == (2, 3, 4, 4)
    assert not present.any()
    empty = torch.zeros(0, 3, 4, 4)
    for positions, rows in (
        edge_rows(empty, torch.zeros(0, 4, 4, dtype=torch.bool)),
        body_rows(empty, torch.zeros(0, 4, 4, dtype=torch.bool), factor=2),
    ):
        assert positions.shape == (0,)
        assert rows.shape == (0, 3)
        assert place_edges(positions, rows, shape=(0, 4, 4))[0].shape == (0, 3, 4, 4)


def test_bodies_of_half_precision_do_not_overflow() -> None:
    _, rows = body_rows(torch.full((1, 2, 8, 8), 60000.0).half(), torch.zeros(1, 8, 8, dtype=torch.bool), factor=8)
    assert rows.tolist() == [[60000 // 32 * 32] * 2]


def test_a_cell_without_a_side_is_refused() -> None:
    with pytest.raises(ValueError, match="factor"):
        body_rows(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, dtype=torch.bool), factor=0)


def test_confidence_is_the_largest_probability() -> None:
    assert confidence(torch.tensor([[math.log(3), 0.0], [0.0, 0.0]])).tolist() == pytest.approx([0.75, 0.5])
