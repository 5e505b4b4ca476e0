"""Diffusion: one row per sample, the noise that a model finds in a latent."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, final

import numpy as np

from fedkd.data.base import Dataset, Samples
from fedkd.errors import ConfigError, DataError
from fedkd.rows import Kind, Rows
from fedkd.tasks.base import Evaluation, Tally, Task
from fedkd.tasks.batches import DenoiseBatch, needed, tensor_of
from fedkd.tasks.calls import ask
from fedkd.tasks.tokens import WIDEST, token_shares
from fedkd.types import Ids, Mask

if TYPE_CHECKING:
    from torch import Tensor, nn

TIME, PROMPT = "t", "prompt"  # names among Samples.more


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """No options: the latent's shape is the data set's."""


@final
@dataclass(frozen=True)
class Diffusion(Task[DenoiseBatch]):
    """Latents with noise in them; the metric is the mean squared error of the noise that is found, lower is better.

    A sample is a tuple: x the latent that goes in (in a proxy set pure noise), more["t"] its time step and, for models
    that take one, more["prompt"] the tokens of a prompt. y, where it is known, is the noise in x, of the same shape.
    Models are called as `model(x, t)` or `model(x, t, prompt)`. A row holds all `num_outputs` values of a latent.
    """

    num_outputs: int
    Config: ClassVar[type] = DiffusionConfig
    name: ClassVar[str] = "diffusion"
    metric: ClassVar[str] = "noise_mse"
    metric_higher_is_better: ClassVar[bool] = False
    kind: ClassVar[Kind] = "noise"

    @classmethod
    def of(cls, config: DiffusionConfig, dataset: Dataset) -> Diffusion:  # noqa: ARG003 - the contract's arguments
        """Over the data set's latents; DataError where they have no time steps."""
        if TIME not in dataset.train.more:
            raise DataError(
                f"data set {dataset.name!r} has no time steps (Samples.more[{TIME!r}]), which diffusion needs; choose "
                "another task or data set"
            )
        return cls(num_outputs=math.prod(dataset.input_shape))

    def filter_inputs(self, samples: Samples) -> Samples:
        """How often each word stands in the prompt: latents of noise resemble nothing. Without prompts, the latents."""
        prompts = samples.more.get(PROMPT)
        if prompts is None:
            return samples
        return replace(samples, x=token_shares(prompts, np.ones(prompts.shape, bool), num_words=WIDEST))

    def batch(self, samples: Samples, index: Ids, device: str) -> DenoiseBatch:
        """Latents, time steps, prompts and the noise."""
        prompt = samples.more.get(PROMPT)
        return DenoiseBatch(
            noisy=tensor_of(samples.x, index, device),
            t=tensor_of(samples.more[TIME], index, device),
            prompt=None if prompt is None else tensor_of(prompt, index, device),
            noise=None if samples.y is None else tensor_of(samples.y, index, device),
        )

    def answer(self, model: nn.Module, batch: DenoiseBatch) -> Tensor:
        """The noise that the model finds, of the latents' shape."""
        rest = () if batch.prompt is None else (batch.prompt,)
        found = ask(model, batch.noisy, batch.t, *rest)
        if found.shape != batch.noisy.shape:
            raise ConfigError(
                f"model {type(model).__name__} answers latents {tuple(batch.noisy.shape)} with shape "
                f"{tuple(found.shape)}, expected noise of the same shape; choose a denoising model",
                key="model.name",
            )
        return found

    def rows(self, answer: Tensor) -> Tensor:
        """(b, 1, d)."""
        return answer.flatten(1)[:, None]

    def loss_of(self, answer: Tensor, batch: DenoiseBatch) -> Tensor:
        """Mean squared error of the noise."""
        from fedkd.functional.losses import masked_mean

        errors = (answer - needed(batch.noise)).square()
        return masked_mean(errors, errors.new_ones(()).bool().expand_as(errors))

    def valid(self, samples: Samples) -> Mask | None:  # noqa: ARG002 - the contract's arguments
        """Every tuple counts."""
        return None

    def tally(self, rows: Rows, samples: Samples) -> Tally:
        """Sum of the squared errors and number of values."""
        noise = samples.labels[rows.ids].reshape(rows.values.shape)
        errors = np.square(rows.values - noise)
        return {"squared": errors.sum(dtype=np.float64, keepdims=True).reshape(1), "values": np.array([errors.size])}

    def finish(self, tally: Tally, *, seen: Ids | None = None) -> Evaluation:  # noqa: ARG002 - there are no classes
        """Mean squared error by value."""
        mse = float(tally["squared"][0]) / max(int(tally["values"][0]), 1)
        return Evaluation(score=mse, metrics={"noise_mse": mse})
