"""Causal language models as fedkd calls them: ids (n, t) in, logits (n, t, c) out."""

from __future__ import annotations

from torch import Tensor, nn


def token_logits(model: nn.Module, ids: Tensor) -> Tensor:
    """Logits (n, t, c) at every position of `ids` (n, t).

    Args:
        model: returns the logits, or like the models of Hugging Face a record with a field `logits`. Shorter sequences
            are padded on the right, which a causal model does not see; it needs no attention mask.
    """
    output = model(ids)
    logits: Tensor = output if isinstance(output, Tensor) else output.logits
    return logits
