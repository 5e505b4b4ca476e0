"""How well a segmentation map fits: mean IoU over classes, everywhere and in the edge band alone."""

from __future__ import annotations

from typing import Any, final

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from fedkd.extras import need
from fedkd.functional.bpkd import edge_band, trimap
from fedkd.types import Metrics


def band_of_labels(
    labels: Int[Tensor, "n rows cols"], *, num_classes: int, width: int, ignore_index: int
) -> Bool[Tensor, "n rows cols"]:
    """True where a labelled pixel is edge of any class, at the labels' own resolution."""
    return edge_band(trimap(labels, num_classes=num_classes, width=width, ignore_index=ignore_index))


@final
class SegmentationScores:
    """Adds up batches. `compute` gives `miou` and `edge_miou`, 0..1, each absent where no pixel counts.

    Both are means over the classes that occur in prediction or truth; ignored pixels never count, and for `edge_miou`
    nothing outside the edge band of the true labels does.
    """

    def __init__(self, *, num_classes: int, edge_width: int, ignore_index: int) -> None:
        classification = need("torchmetrics.classification", extra="segmentation", what="mean IoU")
        self._num_classes, self._edge_width, self._ignore_index = num_classes, edge_width, ignore_index
        self._metrics: dict[str, Any] = {
            name: classification.MulticlassJaccardIndex(num_classes, ignore_index=ignore_index)
            for name in ("miou", "edge_miou")
        }

    def update(self, predicted: Int[Tensor, "n rows cols"], labels: Int[Tensor, "n rows cols"]) -> None:
        """Count one batch of predicted class numbers at the labels' resolution."""
        band = band_of_labels(
            labels, num_classes=self._num_classes, width=self._edge_width, ignore_index=self._ignore_index
        )
        at_edges = torch.where(band, labels, self._ignore_index)
        for name, truth in (("miou", labels), ("edge_miou", at_edges)):
            if (truth != self._ignore_index).any():
                self._metrics[name].to(labels.device).update(predicted, truth)

    def compute(self) -> Metrics:
        """The scores over all batches so far."""
        return {name: float(metric.compute()) for name, metric in self._metrics.items() if metric.update_count}
