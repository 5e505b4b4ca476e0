"""What models of several libraries answer, as one tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

_FIELDS = ("logits", "sample", "logits_per_image")  # transformers, diffusers, CLIP


def logits_of(output: Any) -> Tensor:
    """The logits in a model's answer: a tensor, torchvision's {"out": ...}, or `.logits`/`.sample` of an object.

    Raises:
        TypeError: there is none.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping) and isinstance(found := output.get("out"), Tensor):
        return found
    for name in _FIELDS:
        if isinstance(found := getattr(output, name, None), Tensor):
            return found
    raise TypeError(
        f"answers with a {type(output).__name__}, expected one tensor of logits, a mapping with 'out', or an object "
        f"with one of {', '.join(_FIELDS)}"
    )
