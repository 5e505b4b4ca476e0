"""Whether a model takes the data's inputs and answers in the shape that the task expects."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from fedkd.errors import ConfigError
from fedkd.models.heads import cut_head
from fedkd.models.outputs import logits_of
from fedkd.models.spec import ModelSpec

Inputs: TypeAlias = Sequence[Tensor] | Mapping[str, Tensor]  # arguments by position, or by name

_TOWERS = ("input_ids", "pixel_values")
TEXT_LENGTH = 4  # tokens of an example where the data do not say


def example_inputs(spec: ModelSpec, model: nn.Module) -> Inputs:
    """One sample of zeros, in the shape and type that a model of this head takes.

    Language takes the last token of the vocabulary instead, to see that the model knows it. Diffusion gives noise, a
    step and, where `model` is conditioned, a context or the data's prompt. image_text gives one image and `num_outputs`
    texts by the names that transformers uses, those that `model` takes, else both modalities of the data.
    """
    x = _zeros(spec.input_shape, spec.dtype)
    if spec.head == "language":
        return (torch.full_like(x, spec.num_outputs - 1),)
    takes = inspect.signature(model.forward).parameters
    if spec.head == "image_text":
        texts = torch.zeros(spec.num_outputs, TEXT_LENGTH, dtype=torch.int64)
        by_name = {name: value for name, value in zip(_TOWERS, (texts, x), strict=True) if name in takes}
        second = {name: _zeros(*spec.more[name]) for name in spec.more if name in takes}
        return by_name or ({next(iter(takes)): x, **second} if second else (x,))
    if spec.head == "diffusion":
        step = torch.zeros(1, dtype=torch.int64)
        if context := spec.context or _context_of(model):
            return (x, step, torch.zeros(1, *context))
        asks = [name for name in takes if name in spec.more and takes[name].default is inspect.Parameter.empty]
        return (x, step, *(_zeros(*spec.more[name]) for name in asks if name != "t"))
    return (x,)


def check_model(
    model: nn.Module, spec: ModelSpec, example: Inputs | None = None, *, name: str, group: str = "model"
) -> None:
    """Run one sample through `model` and compare the shape of its answer with what the task expects.

    Args:
        example: arguments of one sample; None takes `example_inputs`.
        group: the configuration's group of keys, for messages.

    Raises:
        ConfigError: the model cannot take the inputs, answers without logits, or in another shape.
    """
    model.eval()
    inputs = example_inputs(spec, model) if example is None else example
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        with torch.inference_mode():
            if isinstance(inputs, Mapping):
                answer = model(**{key: value.to(device) for key, value in inputs.items()})
            else:
                answer = model(*(value.to(device) for value in inputs))
    except IndexError as error:  # of an embedding
        raise ConfigError(
            f"model {name!r} does not know all token numbers or positions of the data (inputs of shape "
            f"{spec.input_shape}, vocabulary {spec.vocab_size or spec.num_outputs}): {error}; mismatched vocabularies: "
            f"leave the size out of {group}.options, or take a model made for such data",
            key=f"{group}.options",
        ) from error
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:  # vision transformers assert their size
        raise ConfigError(
            f"model {name!r} cannot take inputs of shape {spec.input_shape}: {error}; choose a model for such data",
            key=f"{group}.name",
        ) from error
    if isinstance(inputs, Mapping) and len(inputs) == 1 and set(inputs) < set(_TOWERS):
        return  # one tower of two: its embeddings have the width that the method wants
    try:
        logits = logits_of(answer)
    except TypeError as error:
        raise ConfigError(
            f"model {name!r} {error}; wrap it in a module that returns its logits",
            key=f"{group}.name",
        ) from error
    _check_shape(tuple(logits.shape), spec, name=name, group=group)


def check_feature_width(model: nn.Module, width: int, *, name: str, scheme: str) -> None:
    """ConfigError where the last linear layer of `model` takes another width than what clients share; it loses it."""
    _, own = cut_head(model, key="model.name")
    if own != width:
        raise ConfigError(
            f"scheme {scheme!r} combines features of equal width over clients, and the method shares features of width "
            f"{width}, but those of model {name!r} have width {own}; give all clients models of that feature width, "
            "set the method's width, or share outputs instead",
            key="model.name",
        )


def _check_shape(shape: tuple[int, ...], spec: ModelSpec, *, name: str, group: str) -> None:
    outputs = spec.num_outputs
    expected: tuple[int | str, ...]
    if spec.head in ("classification", "image_text"):
        expected = (1, outputs)
    elif spec.head == "segmentation":
        expected = (1, outputs, "height", "width")
    elif spec.head == "language":
        expected = (1, *spec.input_shape, outputs)
    elif spec.head == "diffusion":
        expected = (1, *spec.input_shape)
    else:
        return  # a task from outside knows itself what it expects
    if len(shape) == len(expected) and all(
        isinstance(want, str) or have == want for have, want in zip(shape, expected, strict=True)
    ):
        return
    words = f"({', '.join(map(str, expected))})"
    told = f"model {name!r} answers one input with shape {shape}, expected {words}: "
    if spec.head == "diffusion":
        raise ConfigError(
            f"{told}it has to predict noise of its input's shape; leave channels and size out of {group}.options",
            key=f"{group}.options",
        )
    if spec.head == "language":
        raise ConfigError(
            f"{told}the data have a vocabulary of {outputs} tokens (mismatched vocabularies); set {group}.num_outputs "
            f"= {outputs} (or 0), leave vocab_size out of {group}.options, or take a model with that vocabulary",
            key=f"{group}.num_outputs",
        )
    if len(shape) != len(expected):
        raise ConfigError(f"{told}it is no model for the task {spec.head!r}; choose one that is", key=f"{group}.name")
    raise ConfigError(
        f"{told}the data have {outputs} classes; set {group}.num_outputs = {outputs} (or 0) or give the model's head "
        "that many outputs",
        key=f"{group}.num_outputs",
    )


def _context_of(model: nn.Module) -> tuple[int, ...]:
    """(length, width) that a network of diffusers says it is conditioned on; () where it says nothing."""
    width = getattr(getattr(model, "config", None), "cross_attention_dim", None)
    if isinstance(width, Sequence) and width:
        width = width[0]
    return (TEXT_LENGTH, width) if isinstance(width, int) else ()


def _zeros(shape: tuple[int, ...], dtype: str) -> Tensor:
    """One input; whole numbers as int64, as tasks give them."""
    whole = np.issubdtype(np.dtype(dtype), np.integer)
    return torch.zeros(1, *shape, dtype=torch.int64 if whole else getattr(torch, dtype))
