import pytest
import torch
from torch import Tensor, nn

from fedkd.tasks.calls import ask, precision


class Watched(nn.Module):
    """A layer that notes in which type it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.computed: list[torch.dtype] = []

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        self.computed.append(out.dtype)
        return out


def test_half_precision_is_the_forward_pass_alone() -> None:
    model, x = Watched(), torch.randn(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        before = model.layer.weight.detach().clone()
        with precision("bf16"):
            found = ask(model, x)
            assert found.dtype == torch.float32
            assert (found @ found.T).dtype == torch.float32  # what methods compute themselves
            optimizer.zero_grad()
            found.square().mean().backward()
            optimizer.step()
        assert model.layer.weight.dtype == model.layer.weight.grad.dtype == torch.float32
        torch.testing.assert_close(found, nn.functional.linear(x, before, model.layer.bias), atol=0.1, rtol=0.1)
    assert model.computed == [torch.bfloat16] * 2


def test_weights_that_moved_between_two_answers_are_the_new_ones() -> None:
    model, x = Watched(), torch.randn(4, 3)
    with precision("bf16"):
        ask(model, x)
        with torch.no_grad():
            model.layer.weight.zero_()
            model.layer.bias.zero_()
        assert not ask(model, x).any()


def test_float32_is_as_it_was_and_comes_back_even_after_an_error() -> None:
    model, x = Watched(), torch.randn(4, 3)
    with precision("float32"):
        assert torch.equal(ask(model, x), model.layer(x))
    with pytest.raises(ZeroDivisionError), precision("bf16"):
        1 / 0  # noqa: B018
    ask(model, x)
    assert model.computed == [torch.float32] * 2
