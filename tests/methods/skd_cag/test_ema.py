import pytest
import torch

from fedkd.methods.skd_cag.ema import follow


def test_counters_are_copied_into_the_average() -> None:
    average = {"count": torch.tensor(3), "weight": torch.tensor([1.0])}
    follow(average, {"count": torch.tensor(9), "weight": torch.tensor([0.0])}, step=1, decay=0.9999)
    assert average["count"].item() == 9
    assert average["weight"].item() == pytest.approx(2 / 11)
