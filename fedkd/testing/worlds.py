"""Tiny data and models of every task, each in two versions of the truth: whoever does not learn is wrong in one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor, nn

from fedkd.data.base import IGNORE, Samples
from fedkd.models.config import ModelConfig
from fedkd.models.spec import ModelSpec
from fedkd.types import Array

FEATURES = 4
SEGMENTS = 3  # classes of the pixels
WORDS, LENGTH, PAD = 12, 24, 11  # the last word fills sequences up
LATENT = (1, 4, 4)


def blobs(labels: Sequence[int], *, seed: int) -> Samples:
    """One sample per label, around a centre of its class that lies ten deviations from the next."""
    y = np.array(labels, np.int64)
    noise = np.random.default_rng(seed).normal(size=(len(y), FEATURES))
    return Samples((7.0 * np.eye(FEATURES)[y] + noise).astype(np.float32), y)


def swapped(samples: Samples) -> Samples:
    """The same with two classes exchanged."""
    return replace(samples, y=1 - samples.labels)


def pairs(size: int, *, seed: int, truth: int = 0) -> Samples:
    """Two blobs that agree on the class."""
    labels = [i % 2 for i in range(size)]
    first, second = blobs(labels, seed=seed), blobs(labels, seed=seed + 100)
    both = Samples(first.x, first.y, more={"b": second.x})
    return both if truth == 0 else swapped(both)


def scenes(size: int, *, seed: int, truth: int = 0) -> Samples:
    """Images (3, 8, 8) of four squares, each bright in the channel of its class; the first pixel is void."""
    rng = np.random.default_rng(seed)
    shown = rng.integers(0, SEGMENTS, (size, 2, 2)).repeat(4, axis=1).repeat(4, axis=2)
    x = 3.0 * np.eye(SEGMENTS)[shown].transpose(0, 3, 1, 2) + rng.normal(size=(size, 3, 8, 8))
    y = (shown + truth) % SEGMENTS
    y[:, 0, 0] = IGNORE
    return Samples(x.astype(np.float32), y, groups=shown[:, 0, 0])


def sentences(size: int, *, seed: int, truth: int = 0) -> Samples:
    """Sequences in which each word decides the next one; the first six tokens are a prompt, the end may be padding."""
    rng = np.random.default_rng(seed)
    after = np.roll(np.arange(PAD), -3 if truth == 0 else 4)
    x = np.full((size, LENGTH), PAD, np.int32)
    for row, length in enumerate(rng.integers(LENGTH // 2, LENGTH + 1, size)):
        word = rng.integers(PAD)
        for position in range(length):
            x[row, position] = word
            word = after[word]
    response = np.arange(LENGTH)[None].repeat(size, axis=0) >= 6
    return Samples(x, more={"response": response}, groups=np.zeros(size, np.int64))


def noise(size: int, *, seed: int, truth: int = 0) -> Samples:
    """Tuples of a latent, a time step and a prompt; the noise in it is the latent itself, or its opposite."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size, *LATENT)).astype(np.float32)
    more: dict[str, Array] = {
        "t": rng.integers(0, 10, size),
        "prompt": rng.integers(0, WORDS, (size, 3)).astype(np.int32),
    }
    return Samples(x, x if truth == 0 else -x, more=more, groups=np.zeros(size, np.int64))


class Norm(nn.Module):
    """Batch norm over all positions of a sequence."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        out: Tensor = self.norm(x.flatten(0, -2)).reshape(x.shape)
        return out


class PairNet(nn.Module):
    """Logits from both inputs, or from the first alone."""

    def __init__(self, width: int, hidden: int, outputs: int, norm: nn.Module) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, hidden), nn.Linear(width, hidden)
        self.head = nn.Sequential(norm, nn.ReLU(), nn.Linear(hidden, outputs))

    def forward(self, a: Tensor, b: Tensor | None = None) -> Tensor:
        """Logits (n, c)."""
        hidden = self.first(a) if b is None else self.first(a) + self.second(b)
        out: Tensor = self.head(hidden)
        return out


class Denoiser(nn.Module):
    """Noise from a latent, its time step and its prompt."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.latent, self.time, self.words = nn.Linear(size, size), nn.Embedding(10, size), nn.Embedding(WORDS, size)

    def forward(self, x: Tensor, t: Tensor, prompt: Tensor) -> Tensor:
        """Noise like x."""
        out: Tensor = self.latent(x.flatten(1)) + 0.1 * self.time(t) + 0.1 * self.words(prompt).mean(1)
        return out.reshape(x.shape)


def pair_net(config: ModelConfig, spec: ModelSpec) -> nn.Module:
    """Logits of pairs."""
    return PairNet(spec.input_shape[0], config.hidden, spec.num_outputs, nn.Identity())


def normed_pair_net(config: ModelConfig, spec: ModelSpec) -> nn.Module:
    """The same with batch norm."""
    return PairNet(spec.input_shape[0], config.hidden, spec.num_outputs, nn.BatchNorm1d(config.hidden))


def segmenter(config: ModelConfig, spec: ModelSpec) -> nn.Module:
    """Logits at every pixel."""
    return _convolutions(config, spec, nn.Identity())


def normed_segmenter(config: ModelConfig, spec: ModelSpec) -> nn.Module:
    """The same with batch norm."""
    return _convolutions(config, spec, nn.BatchNorm2d(config.hidden))


def _convolutions(config: ModelConfig, spec: ModelSpec, norm: nn.Module) -> nn.Module:
    first = nn.Conv2d(spec.input_shape[0], config.hidden, 3, padding=1)
    return nn.Sequential(first, norm, nn.ReLU(), nn.Conv2d(config.hidden, spec.num_outputs, 1))


def bigram(config: ModelConfig, spec: ModelSpec) -> nn.Module:  # noqa: ARG001 - how builders are called
    """Logits of the next word from each word alone."""
    return nn.Sequential(nn.Embedding(spec.num_outputs, 16), nn.Linear(16, spec.num_outputs))


def normed_bigram(config: ModelConfig, spec: ModelSpec) -> nn.Module:  # noqa: ARG001
    """The same with batch norm."""
    return nn.Sequential(nn.Embedding(spec.num_outputs, 16), Norm(16), nn.Linear(16, spec.num_outputs))


def normed(config: ModelConfig, spec: ModelSpec) -> nn.Module:
    """A small network that cannot train on a batch of one sample."""
    hidden = config.hidden
    return nn.Sequential(
        nn.Linear(spec.input_shape[0], hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, spec.num_outputs)
    )


def denoiser(config: ModelConfig, spec: ModelSpec) -> nn.Module:  # noqa: ARG001
    """Noise from latent, time step and prompt."""
    return Denoiser(math.prod(spec.input_shape))
