from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from fedkd.errors import StateError
from fedkd.federation import store as module
from fedkd.federation.store import SETUP, StateRef, StateStore, round_folder
from fedkd.federation.tree import digest, to_parcel


def states(*clients: int, scale: float = 1.0) -> dict[int, Any]:
    return {i: {"w": torch.full((3,), scale * i), "note": f"of {i}"} for i in clients}


def write(store: StateStore, folder: str, trees: dict[int, Any]) -> dict[int, StateRef]:
    parcels = {i: to_parcel(tree) for i, tree in trees.items()}
    digests = {i: digest(parcel) for i, parcel in parcels.items()}
    name = store.write(folder, parcels, digests)
    return {i: StateRef(name, digests[i]) for i in trees}


def test_a_state_comes_back(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    refs = write(store, round_folder(4), states(2, 5, 12))
    assert len({ref.file for ref in refs.values()}) == 1
    for client_id, ref in refs.items():
        state = store.read(ref, client_id)
        assert state["note"] == f"of {client_id}"
        assert torch.equal(state["w"], torch.full((3,), float(client_id)))


def test_only_own_arrays_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refs = write(StateStore(tmp_path), "round-000000", states(1, 11, 12))
    read: list[str] = []

    class Watched:
        def __init__(self, *args: Any, **options: Any) -> None:
            self.file = safe_open(*args, **options)

        def __enter__(self) -> Watched:
            self.file.__enter__()
            return self

        def __exit__(self, *error: Any) -> None:
            self.file.__exit__(*error)

        def keys(self) -> list[str]:
            return list(self.file.keys())

        def get_tensor(self, name: str) -> np.ndarray:
            read.append(name)
            return self.file.get_tensor(name)

    monkeypatch.setattr(module, "safe_open", Watched)
    StateStore(tmp_path).read(refs[1], 1)
    assert read == ["header", "1/0"]


def test_another_client_is_not_found(tmp_path: Path) -> None:
    refs = write(StateStore(tmp_path), "round-000000", states(1, 2))
    with pytest.raises(StateError, match=r"client 3: .*'3'"):
        StateStore(tmp_path).read(refs[1], 3)


def test_another_state_is_refused(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    ref = write(store, "round-000000", states(1))[1]
    with pytest.raises(StateError, match="holds another state than 00000000"):
        store.read(StateRef(ref.file, "0" * 32), 1)


@pytest.mark.parametrize("ref", [StateRef("", "ab" * 16), StateRef("round-000001/none.safetensors", "ab" * 16)])
def test_a_missing_file_is_named(tmp_path: Path, ref: StateRef) -> None:
    with pytest.raises(StateError, match=r"client 4: state abababab cannot be read from .*resume from an earlier"):
        StateStore(tmp_path).read(ref, 4)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    ref = write(store, "round-000000", states(1))[1]
    path = tmp_path / ref.file
    whole = path.read_bytes()
    for length in (0, 7, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(StateError, match="client 1: state"):
            store.read(ref, 1)


def test_every_flipped_bit_is_noticed_or_harmless(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    ref = write(store, "round-000000", {1: {"w": np.arange(3, dtype=np.int16)}})[1]
    path = tmp_path / ref.file
    whole = path.read_bytes()
    noticed = 0
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(data))
        try:
            state = store.read(ref, 1)
        except StateError:
            noticed += 1
        else:
            np.testing.assert_array_equal(state["w"], np.arange(3, dtype=np.int16))
    assert noticed > 0.9 * 8 * len(whole)  # what is left are spaces between values of the header


def test_a_rewrite_replaces_the_file(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    first, second = write(store, "round-000000", states(1, 2)), write(store, "round-000000", states(1, 2))
    assert first == second
    assert [path.name for path in (tmp_path / "round-000000").iterdir()] == [Path(first[1].file).name]


def test_cohorts_of_a_round_have_files_of_their_own(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    files = {
        write(store, "round-000000", states(*clients))[clients[0]].file for clients in ((0, 1), (2, 3), (2,), (0,))
    }
    assert len(files) == 4


def test_prune_keeps_what_is_named_what_is_later_and_the_set_up(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    for folder in (SETUP, *map(round_folder, (0, 1, 2, 3, 4))):
        write(store, folder, states(1))
    store.prune({round_folder(1)}, before=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-000001", "round-000003", "round-000004", SETUP]


def test_prune_bears_a_store_that_is_not_there(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "none")
    store.prune(set(), before=9)
    assert not store.root.exists()


def test_a_reference_survives_json() -> None:
    ref = StateRef("round-000001/a", "digest")
    assert StateRef.from_json(ref.to_json()) == ref
    assert StateRef.from_json(None) is None
