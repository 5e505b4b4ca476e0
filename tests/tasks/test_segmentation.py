import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedkd.data.base import IGNORE, Samples
from fedkd.errors import ConfigError, DataError
from fedkd.rows import Rows
from fedkd.tasks.batches import SegBatch
from fedkd.tasks.segmentation import Segmentation, SegmentationConfig

TASK = Segmentation(num_outputs=2, shape=(4, 6), stride=2)


class Fixed(nn.Module):
    """Answers with the first channels of the image, at a stride of its own."""

    def __init__(self, stride: int = 1, form: Any = lambda logits: logits) -> None:
        super().__init__()
        self.stride, self.form = stride, form

    def forward(self, images: Tensor) -> Any:
        return self.form(images[:, :2, :: self.stride, :: self.stride])


def images(size: int = 3) -> Samples:
    x = np.random.default_rng(0).normal(size=(size, 3, 4, 6)).astype(np.float32)
    return Samples(x, np.zeros((size, 4, 6), np.int64))


def test_the_grid_covers_the_image_also_where_the_stride_does_not_divide_it() -> None:
    assert TASK.grid == (2, 3)
    assert TASK.rows_per_sample == 6
    assert Segmentation(num_outputs=2, shape=(5, 9), stride=4).grid == (2, 3)
    assert Segmentation(num_outputs=2, shape=(5, 9), stride=1).rows_per_sample == 45


def test_rows_are_means_of_the_pixels_around_their_centres_row_by_row() -> None:
    """Halving a map bilinearly averages two by two pixels."""
    samples = images()
    made = TASK.predict(Fixed(), samples, np.arange(18), batch_size=2)
    expected = samples.x[:, :2].reshape(3, 2, 2, 2, 3, 2).mean((3, 5)).transpose(0, 2, 3, 1).reshape(18, 2)
    np.testing.assert_allclose(made.values, expected, rtol=1e-5, atol=1e-6)
    assert made.stream == ("proxy", "logits", "")


def test_a_model_at_the_stride_of_the_grid_is_taken_as_it_is() -> None:
    samples = images()
    made = TASK.predict(Fixed(stride=2), samples, np.array([1, 7, 17]), batch_size=2)
    np.testing.assert_array_equal(made.values, [samples.x[0, :2, 0, 2], samples.x[1, :2, 0, 2], samples.x[2, :2, 2, 4]])


@pytest.mark.parametrize("form", [lambda z: {"out": z, "aux": 2 * z}, lambda z: SimpleNamespace(logits=z), lambda z: z])
def test_answers_of_libraries_are_understood(form: Any) -> None:
    batch = TASK.batch(images(), np.arange(2), "cpu")
    torch.testing.assert_close(TASK.answer(Fixed(form=form), batch), batch.images[:, :2])


@pytest.mark.parametrize("form", [lambda z: z.mean((2, 3)), lambda z: [z]])
def test_other_answers_are_refused(form: Any) -> None:
    with pytest.raises(ConfigError, match="model Fixed answers"):
        TASK.answer(Fixed(form=form), TASK.batch(images(), np.arange(2), "cpu"))


def test_the_loss_is_taken_at_the_pixels_that_count() -> None:
    answer = torch.zeros(1, 2, 4, 6)
    answer[0, 0] = math.log(3)  # class 0 has 3/4 everywhere
    masks = torch.full((1, 4, 6), IGNORE)
    masks[0, 0, 0], masks[0, 3, 5] = 0, 1
    loss = TASK.loss_of(answer, SegBatch(torch.zeros(1, 3, 4, 6), masks))
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)


def test_without_a_pixel_that_counts_the_loss_is_zero_with_a_gradient() -> None:
    answer = torch.zeros(1, 2, 2, 3, requires_grad=True)  # a stride of its own: it is resized
    loss = TASK.loss_of(answer, SegBatch(torch.zeros(1, 3, 4, 6), torch.full((1, 4, 6), IGNORE)))
    torch.autograd.backward(loss)
    assert loss.item() == 0.0
    assert answer.grad is not None


def test_a_private_loss_needs_masks() -> None:
    batch = TASK.batch(images().inputs(), np.arange(2), "cpu")
    with pytest.raises(DataError, match="have no labels"):
        TASK.loss(Fixed(), batch)


def rows(classes: list[int]) -> Rows:
    return Rows(
        space="proxy",
        kind="logits",
        ids=np.arange(len(classes)),
        values=np.eye(2, dtype=np.float32)[classes],
    )


def test_mean_iou_by_hand_at_full_resolution() -> None:
    """The left column of cells says 1; bilinear, that reaches over two of six pixels."""
    y = np.zeros((1, 4, 6), np.int64)
    y[0, :, :3] = 1
    y[0, 0, 0] = y[0, 3, 5] = IGNORE
    samples = Samples(np.zeros((1, 3, 4, 6), np.float32), y)
    found = TASK.finish(TASK.tally(rows([1, 0, 0, 1, 0, 0]), samples))
    assert found.tables["confusion"].tolist() == [[11, 0], [4, 7]]
    assert found.score == found.metrics["miou"] == pytest.approx((11 / 15 + 7 / 11) / 2)
    assert found.metrics["pixel_acc"] == pytest.approx(18 / 22)


def test_seen_and_unseen_classes() -> None:
    found = TASK.finish({"confusion": np.array([[11, 0], [4, 7]])}, seen=np.array([1]))
    siou, uiou = 7 / 11, 11 / 15
    assert (found.metrics["siou"], found.metrics["uiou"]) == pytest.approx((siou, uiou))
    assert found.metrics["hiou"] == pytest.approx(2 * siou * uiou / (siou + uiou))


def test_missing_rows_are_no_silent_zeros() -> None:
    with pytest.raises(ValueError, match="5 rows for 1 images, expected 6 each"):
        TASK.tally(rows([0] * 5), images(1))


def test_a_data_set_without_masks_is_refused() -> None:
    flat: Any = SimpleNamespace(
        name="flat", train=Samples(np.zeros((2, 3), np.float32), np.zeros(2)), num_classes=2, input_shape=(3,)
    )
    with pytest.raises(DataError, match="segmentation needs images"):
        Segmentation.of(SegmentationConfig(), flat)
