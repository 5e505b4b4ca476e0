"""Language models small enough to follow by hand."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from fedkd.data.base import Samples
from fedkd.tasks.language import Language


class Table(nn.Module):
    """Logits that depend on the last symbol alone."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def forward(self, ids: Tensor) -> Tensor:
        return self.logits[ids]


def follows(successors: list[int]) -> Table:
    """After symbol i comes `successors[i]`, for certain."""
    return Table(10.0 * nn.functional.one_hot(torch.tensor(successors), len(successors)).float())


class Running(nn.Module):
    """A causal network: the running mean of the embeddings and the last one, through a layer."""

    def __init__(self, symbols: int, width: int, *, seed: int, dropout: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.embedding = nn.Parameter(torch.randn(symbols, width, generator=generator))
        self.hidden = nn.Linear(2 * width, width)
        self.head = nn.Linear(width, symbols)
        with torch.no_grad():
            for layer in (self.hidden, self.head):
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) / layer.in_features**0.5)
                layer.bias.zero_()
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor) -> Tensor:
        last = self.embedding[ids]
        mean = last.cumsum(1) / torch.arange(1, ids.shape[1] + 1)[:, None]
        logits: Tensor = self.head(self.dropout(self.hidden(torch.cat([last, mean], dim=-1)).tanh()))
        return logits


SYMBOLS = 7


def texts(n: int = 12, t: int = 9, seed: int = 0) -> Samples:
    """Sequences over seven symbols; labels are tokens after the first three, but for the last of odd sequences."""
    x = np.random.default_rng(seed).integers(SYMBOLS, size=(n, t)).astype(np.int32)
    response = np.ones((n, t), np.bool_)
    response[:, :3] = False
    response[1::2, -1] = False
    return Samples(x, more={"response": response})


TASK = Language(num_outputs=SYMBOLS, length=9)
