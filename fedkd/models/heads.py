"""Classifiers without their last linear layer: what is left computes features."""

from __future__ import annotations

from torch import nn

from fedkd.errors import ConfigError


def cut_head(classifier: nn.Module, *, key: str) -> tuple[str, int]:
    """Replace the linear layer that was registered last by the identity; its name and its number of inputs.

    Args:
        key: the option that chose the classifier, for the message.

    Raises:
        ConfigError: there is no linear layer inside to take away.
    """
    linear = [(name, layer) for name, layer in classifier.named_modules() if name and isinstance(layer, nn.Linear)]
    if not linear:
        name = f"{key} " if "." in key else ""  # a bare key is told by who knows its group
        raise ConfigError(
            f"{name}names a {type(classifier).__name__}, which has no linear layer inside, but features are what the "
            "last linear layer of a classifier is given; choose another model",
            key=key,
        )
    name, layer = linear[-1]
    parent, _, attribute = name.rpartition(".")
    setattr(classifier.get_submodule(parent), attribute, nn.Identity())
    return name, int(layer.in_features)
