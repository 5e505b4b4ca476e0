import pytest

from fedkd.functional.batching import batch_starts


@pytest.mark.parametrize(
    ("size", "batch", "starts"),
    [
        (8, 4, [0, 4]),
        (10, 4, [0, 4, 8]),
        (9, 4, [0, 4]),  # position 8 would be a batch of its own
        (2, 4, [0]),
        (1, 4, [0]),  # there is no other
        (3, 1, [0, 1, 2]),
        (1, 1, [0]),
        (0, 4, []),
        (0, 1, []),
    ],
)
def test_starts_by_hand(size: int, batch: int, starts: list[int]) -> None:
    assert list(batch_starts(size, batch)) == starts
