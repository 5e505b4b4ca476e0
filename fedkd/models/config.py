"""Configuration of the client models."""

from __future__ import annotations

from dataclasses import dataclass

from fedkd.checks import check_range


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which model; several names, separated by commas, are dealt to the clients in turn (heterogeneous models)."""

    name: str = "mlp"  # an entry of MODELS, torchvision/<name>, timm/<name>, or package.module:function of your own
    hidden: int = 128  # width of the hidden layer of the mlp
    dropout: float = 0.0  # before the last layer of the reference models that have it; 0..1
    num_outputs: int = 0  # 0: as many as the data have classes

    def __post_init__(self) -> None:
        check_range("hidden", self.hidden, low=1)
        check_range("num_outputs", self.num_outputs, low=0)
        check_range("dropout", self.dropout, low=0.0, below=1.0)

    @property
    def names(self) -> tuple[str, ...]:
        """The names in turn."""
        return tuple(name.strip() for name in self.name.split(","))
