from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedkd.data.base import Samples
from fedkd.errors import ConfigError, DataError
from fedkd.tasks.diffusion import Diffusion, DiffusionConfig

TASK = Diffusion(num_outputs=4)
X = np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2)
T = np.array([1, 3])
TUPLES = Samples(X, X - 1, more={"t": T, "prompt": np.array([[5, 6], [7, 8]], np.int32)})


class Scale(nn.Module):
    """The latent times its step, plus the first word of the prompt."""

    def forward(self, x: Tensor, t: Tensor, prompt: Tensor | None = None) -> Any:
        noise = x * t[:, None, None, None] + (0 if prompt is None else prompt[:, :1, None, None])
        return SimpleNamespace(sample=noise)


def test_a_row_is_the_whole_noise_of_a_tuple() -> None:
    made = TASK.predict(Scale(), TUPLES, np.array([1]), batch_size=2)
    assert made.stream == ("proxy", "noise", "")
    assert made.values.tolist() == [[4 * 3 + 7, 5 * 3 + 7, 6 * 3 + 7, 7 * 3 + 7]]


def test_a_prompt_may_be_missing() -> None:
    made = TASK.predict(Scale(), Samples(X, more={"t": T}), np.array([0]), batch_size=2)
    assert made.values.tolist() == [[0, 1, 2, 3]]


def test_loss_and_metric_are_the_mean_squared_error_of_the_noise() -> None:
    class Identity(nn.Module):
        def forward(self, x: Tensor, t: Tensor, prompt: Tensor) -> Tensor:
            return x + (t == 3)[:, None, None, None]  # errors 1 and 2

    batch = TASK.batch(TUPLES, np.arange(2), "cpu")
    assert TASK.loss(Identity(), batch).item() == pytest.approx((1 + 4) / 2)
    found = TASK.finish(TASK.tally(TASK.predict(Identity(), TUPLES, np.arange(2), batch_size=1), TUPLES))
    assert found.score == found.metrics["noise_mse"] == pytest.approx(2.5)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(DataError, match="have no labels"):
        TASK.loss(Scale(), TASK.batch(TUPLES.inputs(), np.arange(2), "cpu"))
    with pytest.raises(ConfigError, match="choose a denoising model"):
        TASK.answer(Flat(), TASK.batch(TUPLES, np.arange(2), "cpu"))
    facts: Any = SimpleNamespace(name="still", train=Samples(X), num_classes=1, input_shape=(1, 2, 2))
    with pytest.raises(DataError, match="no time steps"):
        Diffusion.of(DiffusionConfig(), facts)


class Flat(nn.Module):
    def forward(self, x: Tensor, t: Tensor, prompt: Tensor) -> Tensor:
        return torch.flatten(x, 1)
