"""Segmentation: one row of logits per cell of a grid over the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

import numpy as np

from fedkd.checks import check_range
from fedkd.data.base import Dataset, Samples
from fedkd.errors import ConfigError, DataError
from fedkd.functional.confusion import confusion_counts
from fedkd.rows import Rows
from fedkd.tasks.base import VALUES_AT_ONCE, Evaluation, Tally, Task
from fedkd.tasks.batches import SegBatch, needed, tensor_of
from fedkd.tasks.calls import ask
from fedkd.tasks.class_figures import iou_figures
from fedkd.types import Array, Ids, Mask

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class SegmentationConfig:
    """How finely images are spoken about."""

    stride: int = 4  # pixels from one row to the next, each way: ceil(H / stride) * ceil(W / stride) rows an image

    def __post_init__(self) -> None:
        check_range("stride", self.stride, low=1)


@final
@dataclass(frozen=True)
class Segmentation(Task[SegBatch]):
    """Images of `num_outputs` classes by pixel; the metric is the mean IoU at full resolution, void pixels left out.

    Rows lie on the grid of the stride, row by row; bilinear maps lead there from a model's own resolution, and from
    there to the pixels. The private loss is taken at the pixels, from the model's own resolution.

    Attributes:
        shape: (H, W) of the images.
    """

    num_outputs: int
    shape: tuple[int, int]
    stride: int = 4
    Config: ClassVar[type] = SegmentationConfig
    name: ClassVar[str] = "segmentation"
    metric: ClassVar[str] = "miou"

    @classmethod
    def of(cls, config: SegmentationConfig, dataset: Dataset) -> Segmentation:
        """Over the data set's classes and images; DataError where they are no images with masks of one size."""
        shape, masks = dataset.input_shape, dataset.train.labels.shape[1:]
        if len(shape) != 3 or masks != shape[1:]:
            raise DataError(
                f"data set {dataset.name!r} has inputs of shape {shape} and targets of shape {masks}, but segmentation "
                "needs images (channels, H, W) and masks (H, W); choose another task or data set"
            )
        return cls(num_outputs=dataset.num_classes, shape=(shape[1], shape[2]), stride=config.stride)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows of an image: (down, across)."""
        return -(-self.shape[0] // self.stride), -(-self.shape[1] // self.stride)

    @property
    def rows_per_sample(self) -> int:
        """Cells of the grid."""
        return self.grid[0] * self.grid[1]

    @property
    def table_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The confusion matrix over pixels."""
        return {"confusion": (self.num_outputs, self.num_outputs)}

    def batch(self, samples: Samples, index: Ids, device: str) -> SegBatch:
        """Images and masks."""
        masks = None if samples.y is None else tensor_of(samples.y, index, device)
        return SegBatch(tensor_of(samples.x, index, device), masks)

    def answer(self, model: nn.Module, batch: SegBatch) -> Tensor:
        """Logits (b, c, h, w), at whatever stride the model has."""
        found = ask(model, batch.images)
        if found.ndim != 4:
            raise ConfigError(
                f"model {type(model).__name__} answers images with shape {tuple(found.shape)}, expected logits "
                "(b, c, h, w) by pixel; choose a segmentation model",
                key="model.name",
            )
        return found

    def rows(self, answer: Tensor) -> Tensor:
        """(b, R, c) on the grid."""
        return resized(answer, self.grid).flatten(2).transpose(1, 2)

    def loss_of(self, answer: Tensor, batch: SegBatch) -> Tensor:
        """Cross-entropy at the pixels, mean over those that count."""
        from fedkd.functional.losses import target_cross_entropy

        masks = needed(batch.masks)
        return target_cross_entropy(resized(answer, (masks.shape[1], masks.shape[2])), masks)

    def valid(self, samples: Samples) -> Mask | None:  # noqa: ARG002 - the contract's arguments
        """Every cell is spoken about: whether a pixel is void is known from targets alone."""
        return None

    def tally(self, rows: Rows, samples: Samples) -> Tally:
        """The confusion matrix (c, c) over pixels: rows true, columns predicted. Needs every row of the samples."""
        import torch

        cells = self.rows_per_sample
        if len(rows) != len(samples) * cells:
            raise ValueError(f"{len(rows)} rows for {len(samples)} images, expected {cells} each")
        total: Array = np.zeros((self.num_outputs, self.num_outputs), np.int64)
        step = max(1, VALUES_AT_ONCE // (self.num_outputs * self.shape[0] * self.shape[1]))
        for start in range(0, len(samples), step):
            masks = samples.labels[start : start + step]
            values = torch.from_numpy(rows.values[start * cells : (start + len(masks)) * cells])
            maps = values.reshape(len(masks), *self.grid, -1).permute(0, 3, 1, 2)
            predicted = resized(maps, self.shape).argmax(1).numpy()
            total += confusion_counts(masks.reshape(-1), predicted.reshape(-1), num_classes=self.num_outputs)
        return {"confusion": total}

    def finish(self, tally: Tally, *, seen: Ids | None = None) -> Evaluation:
        """Mean IoU and pixel accuracy; with `seen` also IoU over those classes, over the others, and harmonic mean."""
        return iou_figures(tally["confusion"], seen=seen)


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (b, c, h, w) at another size, bilinear between the centres of cells; untouched where they have it."""
    from torch.nn import functional

    if (maps.shape[2], maps.shape[3]) == size:
        return maps
    return functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)
