from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fedkd.models.outputs import logits_of

X = torch.arange(3.0)


@pytest.mark.parametrize(
    "output",
    [
        X,
        {"out": X},
        OrderedDict(out=X, aux=torch.zeros(1)),
        SimpleNamespace(logits=X, loss=None),
        SimpleNamespace(sample=X),
        SimpleNamespace(logits_per_image=X, logits_per_text=torch.zeros(1)),
    ],
)
def test_the_logits_of_every_library(output: Any) -> None:
    assert logits_of(output) is X


@pytest.mark.parametrize("output", [(X, X), {"aux": X}, SimpleNamespace(logits=None), None])
def test_an_answer_without_logits_is_refused(output: Any) -> None:
    with pytest.raises(TypeError, match=f"answers with a {type(output).__name__}, expected one tensor of logits"):
        logits_of(output)
