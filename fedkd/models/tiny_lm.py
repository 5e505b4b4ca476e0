"""The smallest reference model for language."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedkd.errors import ConfigError
from fedkd.models.config import ModelConfig
from fedkd.models.options import check_whole
from fedkd.models.spec import ModelSpec


def build_tiny_lm(
    config: ModelConfig, spec: ModelSpec, *, layers: int = 2, heads: int = 2, max_length: int = 0
) -> nn.Module:
    """Causal transformer of width `config.hidden`; logits (n, t, v) of the next token at each of t <= `max_length`.

    `max_length` 0 takes the length of the data's sequences.
    """
    if len(spec.input_shape) != 1 or not spec.takes_tokens:
        raise ConfigError(
            f"is 'tiny_lm', which takes sequences of token numbers, but the data have {spec.dtype} inputs of shape "
            f"{spec.input_shape}; choose a model for such data",
            key="name",
        )
    check_whole("layers", layers)
    check_whole("heads", heads)
    check_whole("max_length", max_length, low=0)
    if config.hidden % heads:
        raise ConfigError(
            f"holds heads = {heads}, which does not divide hidden = {config.hidden}; change one", key="options"
        )
    length = max_length or spec.input_shape[0]
    return TinyLM(spec.num_outputs, config.hidden, layers, heads, length, config.dropout)


class TinyLM(nn.Module):
    """Token and position embeddings, pre-norm blocks, a last norm and a linear head."""

    def __init__(self, vocab: int, width: int, layers: int, heads: int, max_length: int, dropout: float) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab, width)
        self.positions = nn.Embedding(max_length, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, vocab)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits (n, t, v) of token numbers (n, t); positions where `attention_mask` (n, t) is 0 are not looked at."""
        length = input_ids.shape[1]
        x = self.tokens(input_ids) + self.positions(torch.arange(length, device=input_ids.device))
        seen = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        if attention_mask is not None:
            itself = torch.eye(length, dtype=torch.bool, device=x.device)  # nobody is left without anything to look at
            seen = (seen & attention_mask.bool()[:, None, None, :]) | itself
        for block in self.blocks:
            x = block(x, seen)
        logits: Tensor = self.head(self.dropout(self.norm(x)))
        return logits


class _Block(nn.Module):
    """Self-attention and a two-layer perceptron, each with a norm before it and a shortcut around it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """Features (n, t, d); `seen` says which positions (columns) each position (row) looks at."""
        n, t, d = x.shape
        queries, keys, values = (
            part.view(n, t, self.heads, d // self.heads).transpose(1, 2)
            for part in self.mix(self.first_norm(x)).chunk(3, dim=-1)
        )
        attended = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=seen)
        x = x + self.out(attended.transpose(1, 2).reshape(n, t, d))
        y: Tensor = x + self.mlp(self.second_norm(x))
        return y
