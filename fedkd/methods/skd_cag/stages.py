"""The losses of SKD-CAG's stages, as functions of positions in the data: what `local_training` steps on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn, optim

from fedkd.functional.skd_cag import total_loss
from fedkd.methods.local_training import Loss, step
from fedkd.methods.skd_cag.attention import AttentionTap
from fedkd.methods.skd_cag.config import SKDCAGConfig
from fedkd.methods.skd_cag.guidance import Scene, Streams, draw_step, unlearning_terms
from fedkd.methods.skd_cag.prompts import WordIds
from fedkd.types import Ids


def home_training(model: nn.Module, optimizer: optim.Optimizer, loss: Loss, order: Iterable[Ids]) -> list[Tensor]:
    """Train all of `model`, its text encoder too, on the batches in `order`; the losses.

    A client whose private data are poisoned ends with a backdoor.
    """
    model.train()
    losses = []
    for index in order:
        found = loss(index)
        step(optimizer, found)
        losses.append(found.detach())  # else the graphs of all steps stay
    return losses


@contextlib.contextmanager
def unlearning_loss(
    student: nn.Module,
    scene: Scene,
    prompts: Sequence[WordIds],
    *,
    config: SKDCAGConfig,
    generator: torch.Generator,
    seen: dict[str, list[Tensor]],
) -> Iterator[Loss]:
    """The loss of one step on the prompts at given positions, without the federated term.

    Inside the block the cross-attention of both networks is tapped. Streams for each kind of choice are derived from
    `generator`, so two runs that differ in lambda, target or knowledge see the same latents and timesteps.

    Args:
        prompts: token ids of the words of each clean prompt.
        seen: gets each term of each step under its name.
    """
    streams = Streams.of(generator)
    taps: tuple[AttentionTap, AttentionTap] | None = None

    def loss(index: Ids) -> Tensor:
        draw = draw_step(scene, [prompts[at] for at in index], streams, config=config)
        terms = unlearning_terms(student, scene, draw, config=config, taps=taps, mask_stream=streams.mask)
        for name, term in terms.items():
            seen.setdefault(name, []).append(term.detach())
        keep = terms.get("keep_loss", draw.x.new_zeros(()))
        if not config.unlearn:
            return config.keep_weight * keep
        return total_loss(
            terms["attention_loss"],
            terms["prediction_loss"],
            attention_weight=config.attention_weight,
            keep=keep,
            keep_weight=config.keep_weight,
        )

    with contextlib.ExitStack() as open_taps:
        if prompts and config.unlearn and config.attention_weight > 0.0:
            of_teacher = open_taps.enter_context(contextlib.closing(AttentionTap(scene.teacher)))
            taps = of_teacher, open_taps.enter_context(contextlib.closing(AttentionTap(student)))
        yield loss
