"""The two streams: what a client sends, and how the federation's answer becomes maps."""

from typing import Any

import numpy as np
import pytest
import torch

from fedkd.exchange import combine
from fedkd.methods.bpkd.config import BPKDConfig
from fedkd.methods.bpkd.consensus import BODY, EDGE, VOTERS, Consensus, dense_rows, no_bands, selected_rows
from fedkd.rows import Rows
from fedkd.tasks.segmentation import Segmentation
from fedkd.types import Array, Ids

TASK = Segmentation(num_outputs=2, shape=(8, 8), stride=1)  # 64 rows an image
CONFIG = BPKDConfig(edge_width=3, body_factor=4)
NEVER = no_bands(TASK)


def halves(at: int, *, samples: tuple[int, ...] = (1,)) -> Rows:
    """Logits that say class 1 from column `at` on, and are surer further down."""
    one = np.where(np.arange(8) >= at, 1.0, -1.0) * (1 + np.arange(8)[:, None])
    values = np.stack([-one, one], axis=-1).reshape(64, 2).astype(np.float32)
    ids = (64 * np.array(samples, np.int64)[:, None] + np.arange(64)).reshape(-1)
    return Rows(space="proxy", kind="logits", ids=ids, values=np.tile(values, (len(samples), 1)))


def columns_of(ids: Ids) -> list[int]:
    return sorted({int(number) % 64 % 8 for number in ids})


def test_the_voters_column_is_that_of_the_schemes() -> None:
    assert VOTERS == combine.VOTERS


def test_a_client_sends_the_pixels_of_its_band_and_a_row_for_each_cell() -> None:
    edge, body = selected_rows(CONFIG, halves(4, samples=(1, 5)), TASK, NEVER)
    assert (edge.variant, body.variant) == (EDGE, BODY)
    assert columns_of(edge.ids) == [3, 4]
    assert edge.ids[:2].tolist() == [64 + 3, 64 + 4]
    assert len(edge) == 2 * 16
    assert body.ids.tolist() == [64 + at for at in (0, 4, 32, 36)] + [5 * 64 + at for at in (0, 4, 32, 36)]
    np.testing.assert_allclose(body.values[0], [2.5, -2.5])  # rows 0 to 3: 1, 2, 3, 4
    np.testing.assert_allclose(edge.values[0], [1, -1])
    np.testing.assert_allclose(
        edge.weight, np.exp(np.abs(edge.values[:, 0])) / (2 * np.cosh(edge.values[:, 0])), rtol=1e-6
    )
    assert all(rows.weight is not None and rows.weight.max() <= 1.0 for rows in (edge, body))


def test_dense_rows_are_all_pixels_with_their_confidence() -> None:
    rows = dense_rows(halves(4))
    assert (rows.variant, len(rows)) == ("", 64)
    assert rows.weight is not None
    assert rows.weight.min() == pytest.approx(np.exp(1) / (2 * np.cosh(1)))


def test_the_band_is_the_consensus_one_where_it_spoke_of_the_image() -> None:
    heard = Consensus(selected_rows(CONFIG, halves(4, samples=(5,)), TASK, NEVER), TASK, factor=4).bands(TASK, width=3)
    assert heard["samples"].tolist() == [5]
    edge, _ = selected_rows(CONFIG, halves(2, samples=(1, 5)), TASK, heard)
    assert columns_of(edge.ids[edge.ids < 5 * 64]) == [1, 2]
    assert columns_of(edge.ids[edge.ids >= 5 * 64]) == [3, 4]


def test_some_pixels_of_an_image_are_all_that_is_sent_of_it() -> None:
    rows = halves(4).where(np.arange(64) < 28)
    edge, body = selected_rows(CONFIG, rows, TASK, NEVER)
    assert set(edge.ids) <= set(rows.ids)
    assert body.ids.tolist() == [64, 68]


def test_nothing_accepted_makes_two_empty_streams() -> None:
    assert [len(rows) for rows in selected_rows(CONFIG, halves(4, samples=()), TASK, NEVER)] == [0, 0]


def mean_of(*clients: tuple[Rows, ...]) -> list[Rows]:
    return [combine.combine(list(stream)) for stream in zip(*clients, strict=True)]


def test_what_clients_with_one_band_say_comes_back_as_their_mean() -> None:
    both = [selected_rows(CONFIG, halves(4, samples=(1, 3)), TASK, NEVER) for _ in range(2)]
    consensus = Consensus(mean_of(*both), TASK, factor=4)
    assert consensus.sample_ids.tolist() == [1, 3]
    logits, present = consensus.batch(np.array([1]))
    assert present.all()
    assert torch.equal(logits.argmax(1)[0], (torch.arange(8) >= 4).long().expand(8, 8))
    np.testing.assert_allclose(logits[0, 0, :, 3], 1 + np.arange(8))


def test_who_has_another_band_is_heard_by_its_cells() -> None:
    """Columns 3 and 4 are edge for the first client alone: one of two voices; the cell has the other's word too."""
    edge_rows = [replace_values(rows, value) for rows, value in zip(both_bands(0), (6.0, 0.0), strict=True)]
    other_rows = [replace_values(rows, value) for rows, value in zip(both_bands(1), (0.0, 2.0), strict=True)]
    logits, _ = Consensus(mean_of(tuple(edge_rows), tuple(other_rows)), TASK, factor=4).batch(np.array([0]))
    assert logits[0, 0, 0, 3] == pytest.approx((6.0 + 1.0) / 2)  # its own word, and the mean of the cell (0 and 2)
    unheard = [Rows(space="proxy", kind="logits", ids=r.ids, values=r.values, variant=r.variant) for r in edge_rows]
    logits, _ = Consensus(unheard, TASK, factor=4).batch(np.array([0]))
    assert logits[0, 0, 0, 3] == pytest.approx(6.0)  # nobody says how many spoke: the pixel's own row wins


def both_bands(which: int) -> tuple[Rows, ...]:
    return selected_rows(CONFIG, halves((4, 7)[which]), TASK, NEVER)


def replace_values(rows: Rows, value: float) -> Rows:
    return Rows(
        space="proxy",
        kind="logits",
        ids=rows.ids,
        values=np.full_like(rows.values, value),
        variant=rows.variant,
    )


@pytest.mark.parametrize("streams", [(EDGE,), (BODY,), ()])
def test_one_stream_alone_is_heard(streams: tuple[str, ...]) -> None:
    rows = [each for each in selected_rows(CONFIG, halves(4), TASK, NEVER) if each.variant in streams]
    consensus = Consensus(rows, TASK, factor=4)
    assert len(consensus) == bool(streams)
    if streams:
        _, present = consensus.batch(np.array([0]))
        expected: dict[str, Any] = {EDGE: 16, BODY: 64}
        assert int(present.sum()) == expected[streams[0]]
    else:
        assert len(consensus.bands(TASK, width=3)["samples"]) == 0


def test_a_dense_answer_is_taken_pixel_by_pixel() -> None:
    said = dense_rows(halves(4, samples=(2,)))
    logits, present = Consensus([said], TASK, factor=4).batch(np.array([0]))
    assert present.all()
    back: Array = logits[0].flatten(1).T.numpy()
    np.testing.assert_array_equal(back, said.values)
