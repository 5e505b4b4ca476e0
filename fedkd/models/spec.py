"""What a model is built for: what goes in and what has to come out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What every builder gets beside the configuration.

    Attributes:
        input_shape: of one main input: (features,), (channels, height, width) or (tokens,).
        num_outputs: columns of the logits: classes, or the size of the vocabulary.
        head: the task's name. It decides the shape of the answer to n inputs: classification (n, c); segmentation
            (n, c, height, width) at any stride; language (n, t, c); image_text (n, c), or embeddings of one of both;
            diffusion as the input.
        dtype: of the main input; token numbers are whole.
        vocab_size: how many token numbers there are; 0 where the data do not say, or (language) `num_outputs`.
        more: shape and type of further inputs by name, as in Samples.more: a second modality, a prompt.
        context: (length, width) of what a diffusion model is conditioned on; () where the model says.
    """

    input_shape: tuple[int, ...]
    num_outputs: int
    head: str = "classification"
    dtype: str = "float32"
    vocab_size: int = 0
    more: Mapping[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)
    context: tuple[int, ...] = ()

    @property
    def takes_tokens(self) -> bool:
        """Whether the main input is token numbers."""
        return bool(np.issubdtype(np.dtype(self.dtype), np.integer))

    @property
    def takes_images(self) -> bool:
        """Whether the main input is images (channels, height, width)."""
        return len(self.input_shape) == 3 and not self.takes_tokens
