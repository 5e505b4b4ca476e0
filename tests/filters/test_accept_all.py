import numpy as np

from fedkd.data.base import Samples
from fedkd.filters.accept_all import AcceptAll, AcceptAllConfig


def test_everything_is_accepted() -> None:
    samples = Samples(np.zeros((4, 1, 2, 2), np.float32))
    accept_all = AcceptAll(AcceptAllConfig(), seed=0).fit(samples).calibrate(samples)
    assert accept_all.accept(samples).tolist() == [True] * 4
    assert accept_all.accept(Samples(samples.x[:0])).shape == (0,)
    assert not AcceptAll.needs_proxy_labels
