from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.errors import BadReplyError
from fedkd.federation.mapped import map_arrays
from fedkd.federation.wire import DTYPES, load_arrays, save_arrays

ARRAYS = {
    **{f"a{number}": np.arange(6).reshape(2, 3).astype(dtype) for number, dtype in enumerate(sorted(DTYPES, key=str))},
    "empty": np.zeros((0, 4), np.float32),
    "scalar": np.array(2.5),
}


def test_it_reads_what_the_wire_s_reader_reads(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(save_arrays({"version": "v"}, ARRAYS))
    header, arrays = map_arrays(path)
    expected_header, expected = load_arrays(path.read_bytes())
    assert header == expected_header
    assert set(arrays) == set(expected)
    for name, array in expected.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


def test_writing_into_an_array_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(save_arrays({}, {"x": np.zeros(3)}))
    map_arrays(path)[1]["x"][:] = 1
    np.testing.assert_array_equal(map_arrays(path)[1]["x"], np.zeros(3))


@given(cut=st.integers(0, 200))
def test_a_file_cut_short_is_refused(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    whole = save_arrays({}, {"x": np.zeros(30)})
    path = tmp_path_factory.mktemp("cut") / "x"
    path.write_bytes(whole[: min(cut, len(whole) - 1)])
    with pytest.raises(BadReplyError):
        map_arrays(path)


@given(noise=st.binary(min_size=1, max_size=200))
def test_noise_is_refused(noise: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("noise") / "x"
    path.write_bytes(noise)
    with pytest.raises(BadReplyError):
        map_arrays(path)
