"""Configuration of the models: the group `model` for the students, `teacher` for a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from fedkd.checks import check_range
from fedkd.errors import ConfigError
from fedkd.models.options import parse_options


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which model; several names, separated by commas, are dealt to the clients in turn (heterogeneous models).

    The group `teacher` has the same keys; only methods that declare a teacher role read it.
    """

    paths: ClassVar[frozenset[str]] = frozenset({"weights"})

    name: str = "mlp"  # an entry of MODELS, <library>/<name> (LIBRARIES), or package.module:function of your own
    hidden: int = 128  # width of the reference models that have one: mlp, seg_net, tiny_lm
    dropout: float = 0.0  # before the last layer of the reference models that have it; 0..1
    num_outputs: int = 0  # 0: as many as the data have classes, or tokens in their vocabulary
    weights: str = ""  # what it starts from: a .safetensors file or a folder in Hugging Face format; "" random weights
    options: str = ""  # a JSON object of keyword arguments for the library's class or the builder
    download: bool = False  # true: `weights` may be a name on the Hugging Face hub; nothing is ever fetched otherwise

    def __post_init__(self) -> None:
        check_range("hidden", self.hidden, low=1)
        check_range("num_outputs", self.num_outputs, low=0)
        check_range("dropout", self.dropout, low=0.0, below=1.0)
        parse_options(self.options)
        if self.weights and len(self.names) > 1:
            raise ConfigError(
                f"is {self.weights!r}, but name lists {len(self.names)} models; weights fit one architecture, "
                "so name one",
                key="weights",
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The names in turn."""
        return tuple(name.strip() for name in self.name.split(","))

    @property
    def arguments(self) -> dict[str, Any]:
        """`options` as keyword arguments."""
        return parse_options(self.options)
