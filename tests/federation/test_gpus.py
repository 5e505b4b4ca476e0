import pytest

from fedkd.federation.gpus import gpu_environment, visible_gpus


@pytest.mark.parametrize(
    ("listed", "count", "expected"),
    [
        (None, 0, ()),
        (None, 3, ("0", "1", "2")),
        ("2,5", 2, ("2", "5")),
        ("GPU-8932f937, MIG-GPU-8932f937/1/0", 2, ("GPU-8932f937", "MIG-GPU-8932f937/1/0")),
        ("", 0, ()),
        ("-1", 0, ()),
        ("1,-1,0", 1, ("1",)),  # CUDA reads no further than the first name that it does not know
    ],
)
def test_the_names_are_those_that_cuda_takes(listed: str | None, count: int, expected: tuple[str, ...]) -> None:
    environ = {} if listed is None else {"CUDA_VISIBLE_DEVICES": listed}
    assert visible_gpus(environ, count) == expected


def test_gpus_are_dealt_in_turn_and_shared_when_there_are_more_workers() -> None:
    dealt = [gpu_environment(worker, ("4", "7")) for worker in range(5)]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in dealt] == ["4", "7", "4", "7", "4"]


def test_without_a_gpu_nothing_is_said() -> None:
    assert gpu_environment(0, ()) == {}
