from collections.abc import Sequence

import pytest
from torch import nn

from fedkd.models import stacking
from fedkd.models.stacking import ALWAYS, Measured, nearest, stack_size, table

MODEL = nn.Sequential(nn.Linear(9, 10))  # 100 parameters


def measured(parameters: int, *, gain: float = 3.0, model: str = "mlp", device: str = "cpu") -> Measured:
    return Measured(device=device, model=model, parameters=parameters, batch=32, clients=7, gain=gain)


@pytest.mark.parametrize(
    ("lines", "auto", "always"),
    [
        ([measured(100)], 7, 7),
        ([measured(60), measured(190, gain=1.0)], 7, 7),  # 60 is nearer than 190, in proportion
        ([measured(45), measured(500)], 1, ALWAYS),  # both further than a factor of two
        ([measured(100, gain=1.05)], 1, 7),  # no faster to speak of
        ([measured(100, model="cnn"), measured(100, device="cuda")], 1, ALWAYS),
        ([], 1, ALWAYS),
    ],
)
def test_the_table_decides(lines: Sequence[Measured], auto: int, always: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacking, "table", lambda: tuple(lines))
    sizes = {mode: stack_size(MODEL, "mlp", device="cpu", mode=mode) for mode in ("auto", "always", "never")}
    assert sizes == {"auto": auto, "always": always, "never": 1}


def test_what_cannot_be_stacked_is_not_whatever_the_table_says() -> None:
    model = nn.Sequential(nn.Linear(9, 10), nn.BatchNorm1d(10))
    assert stack_size(model, "mlp", device="cpu", mode="always") == 1


def test_a_gpu_is_looked_up_without_its_number() -> None:
    assert nearest((measured(100, device="cuda"),), "cuda:1", "mlp", 100) is not None


def test_the_table_that_comes_with_the_package_is_in_order() -> None:
    lines = table()
    assert {"mlp", "cnn"} <= {line.model for line in lines}
    assert all(line.clients > 1 and line.gain > 0 for line in lines)
