"""The networks of one client: T and A as the configuration names them, masks and gate, held live by the pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from fedkd.data.base import Samples
from fedkd.methods.base import Context
from fedkd.methods.mst_distill.config import MSTDistillConfig
from fedkd.methods.mst_distill.mixture import Networks, Specialists, build_specialists
from fedkd.methods.mst_distill.networks import GateNet, PairedTeacher, UnimodalNet
from fedkd.models.config import ModelConfig
from fedkd.models.pool import ClientModels, snapshot
from fedkd.models.spec import ModelSpec
from fedkd.tasks.image_text import SECOND

Weights = Mapping[str, Any]  # of T ("teacher"), A ("auxiliary") and the masks ("masks": by name); empty: new ones


def mlp(config: ModelConfig, spec: ModelSpec) -> nn.Module:
    """Flattened input, `fc1` of `config.hidden` units, `fc2` of half as many, `fc3` the logits."""
    width = int(np.prod(spec.input_shape))
    return UnimodalNet(width, num_outputs=spec.num_outputs, hidden=(config.hidden, config.hidden // 2))


def gate_of(models: ClientModels, num_teachers: int, weights: Mapping[str, Tensor] | None) -> nn.Module:
    """The gate over the specialised teachers and the aggregate; without weights a new one."""
    return _live(models, f"gate_{num_teachers}", lambda: GateNet(models.spec.num_outputs, num_teachers + 1), weights)


def networks_of(ctx: Context, config: MSTDistillConfig, student: nn.Module, weights: Weights) -> Networks:
    """T, A and the student, on this client's modalities."""
    models, wide = ctx.models, ctx.models.pool.config.hidden
    # Library models have a head for classes, and none for `image_text`: T's encoders and A take one modality each.
    of_a = replace(models.spec, more={}, head="classification")
    of_b = _spec_of_b(models.spec, ctx.data.train)
    own = models.pool.config.options
    other_options = config.auxiliary_options or ("" if config.auxiliary_model else own)

    def body(name: str, spec: ModelSpec, options: str) -> nn.Module:
        return models.build(name or models.architecture, spec=spec, group="method", options=options)

    def encoder(name: str, spec: ModelSpec, options: str) -> nn.Module:
        if len(spec.input_shape) == 1 and not spec.takes_tokens:
            return nn.Linear(spec.input_shape[0], wide)
        return body(name, replace(spec, num_outputs=wide), options)

    def teacher() -> nn.Module:
        if config.teacher_model:
            return models.build(config.teacher_model, group="method", options=config.teacher_options)
        return PairedTeacher(
            encoder("", of_a, own),
            encoder(config.auxiliary_model, of_b, other_options),
            2 * wide,
            num_outputs=models.spec.num_outputs,
            hidden=(wide, wide // 2),
        )

    return Networks(
        _live(models, "teacher", teacher, weights.get("teacher")),
        _live(models, "auxiliary", lambda: body(config.auxiliary_model, of_b, other_options), weights.get("auxiliary")),
        student,
    )


def specialists_of(ctx: Context, config: MSTDistillConfig, networks: Networks, weights: Weights) -> Specialists:
    """T and A with their masks."""
    masks = weights.get("masks", {})
    few = ctx.task.batch(ctx.data.train, np.arange(min(2, len(ctx.data.train))), ctx.device)
    return build_specialists(
        networks, config, few.a, few.b, make=lambda name, build: _live(ctx.models, name, build, masks.get(name))
    )


def is_paired(samples: Samples) -> bool:
    """Whether the samples have the second modality."""
    return SECOND in samples.more


def _spec_of_b(spec: ModelSpec, train: Samples) -> ModelSpec:
    array = train.more[SECOND]
    return replace(spec, input_shape=array.shape[1:], dtype=str(array.dtype), more={}, head="classification")


def _live(models: ClientModels, key: str, build: Any, weights: Mapping[str, Tensor] | None) -> nn.Module:
    """The live module of the key; new weights come from torch's current random state."""
    return models.custom(key, build, snapshot(build()) if weights is None else weights)
