"""Which models a method needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Source: TypeAlias = Literal["config", "copy_of_student", "trained"]
Group: TypeAlias = Literal["model", "teacher"]


@dataclass(frozen=True, kw_only=True)
class ModelRole:
    """A model that a trainer declares in `models`; each is built and checked before a run starts.

    Attributes:
        name: what `ctx.models` calls it ("student", "teacher", "ema", ...).
        frozen: never stepped. With source config it is loaded from `<group>.weights` by `ctx.models.frozen(name)` and
            stays out of the state; otherwise `ctx.models.load` gives it in evaluation mode and without gradients.
        optional: may be left out of the configuration; ask `ctx.models.has(name)`.
        source: where its weights come from: the configuration, the client's own student (same architecture), or
            training by the client.
        group: the group of keys that describes its architecture.
    """

    name: str
    frozen: bool = False
    optional: bool = False
    source: Source = "config"
    group: Group = "model"

    @property
    def needs_weights(self) -> bool:
        """Whether `<group>.weights` is where it comes from."""
        return self.frozen and self.source == "config"
