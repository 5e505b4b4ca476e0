from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedkd.errors import ConfigError
from fedkd.models.build import build_model
from fedkd.models.check import check_model
from fedkd.models.config import ModelConfig
from fedkd.models.spec import ModelSpec

SPEC = ModelSpec(input_shape=(6,), num_outputs=9, head="language", dtype="int32")


def build(options: str = "", spec: ModelSpec = SPEC, **more: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_model("tiny_lm", ModelConfig(hidden=8, options=options, **more), spec).eval()


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_logits_of_the_next_token_at_each_position(dtype: torch.dtype) -> None:
    model = build()
    check_model(model, SPEC, name="tiny_lm")
    assert model(torch.zeros(2, 6, dtype=dtype)).shape == (2, 6, 9)
    assert model(torch.zeros(2, 3, dtype=dtype)).shape == (2, 3, 9)
    assert model(torch.zeros(0, 6, dtype=dtype)).shape == (0, 6, 9)


def test_a_position_sees_itself_and_what_comes_before() -> None:
    model, tokens = build(), torch.tensor([[1, 2, 3, 4, 5, 6]])
    changed = tokens.clone()
    changed[0, 3] = 8
    before, after = model(tokens)[0], model(changed)[0]
    assert torch.equal(before[:3], after[:3])
    assert all(not torch.allclose(before[t], after[t]) for t in range(3, 6))


def test_masked_positions_are_not_looked_at() -> None:
    model, tokens = build(), torch.tensor([[1, 2, 3, 4, 5, 6]])
    other = torch.tensor([[7, 2, 3, 4, 5, 6]])
    mask = torch.tensor([[0, 1, 1, 1, 1, 1]])
    torch.testing.assert_close(model(tokens, mask)[0, 1:], model(other, mask)[0, 1:])
    assert model(tokens, torch.zeros_like(mask)).isfinite().all()
    torch.testing.assert_close(model(tokens, torch.ones_like(mask)), model(tokens))


def test_options_give_its_size() -> None:
    one, two = build('{"layers": 1, "heads": 4}'), build()
    assert len(one.blocks) == 1  # type: ignore[arg-type]
    assert len(two.blocks) == 2  # type: ignore[arg-type]
    assert build('{"max_length": 10}')(torch.zeros(1, 10, dtype=torch.int64)).shape == (1, 10, 9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ('{"heads": 3}', r"holds heads = 3, which does not divide hidden = 8"),
        ('{"layers": 0}', r"holds layers = 0, expected a whole number"),
        ('{"heads": "2"}', r"holds heads = '2', expected a whole number"),
        ('{"layer": 1}', r"holds 'layer'.*did you mean 'layers'\? Known: heads, layers, max_length"),
    ],
)
def test_wrong_options_are_refused(options: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build(options)
    assert caught.value.key == "model.options"


def test_data_that_are_no_tokens_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model.name is 'tiny_lm', which takes sequences of token numbers"):
        build(spec=ModelSpec(input_shape=(6,), num_outputs=9))


def test_it_learns_to_count() -> None:
    model = build().train()
    tokens = (torch.arange(9)[:, None] + torch.arange(6)) % 9
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(60):
        optimizer.zero_grad()
        functional.cross_entropy(model(tokens).flatten(0, 1), ((tokens + 1) % 9).flatten()).backward()
        optimizer.step()
    assert (model.eval()(tokens).argmax(-1) == (tokens + 1) % 9).float().mean() > 0.95
