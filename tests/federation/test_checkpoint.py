from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedkd.data.base import Samples
from fedkd.errors import StateError
from fedkd.federation.checkpoint import Checkpoints, Progress
from fedkd.federation.setting import Setting
from fedkd.federation.store import StateRef
from fedkd.rows import Extra, Knowledge, Rows


def rows(**changes: Any) -> Rows:
    plain: dict[str, Any] = {
        "space": "proxy",
        "kind": "probs",
        "ids": np.array([1, 5]),
        "values": np.array([[0.25, 0.75], [1, 0]], np.float32),
    }
    return Rows(**(plain | changes))


def progress(next_round: int = 3, folder: str = "round-000002") -> Progress:
    return Progress(
        next_round=next_round,
        scheme={"model": {"w": torch.arange(3.0)}, "rounds": 2},
        knowledge=Knowledge(
            common=(
                rows(weight=np.array([0.5, 1], np.float32)),
                rows(variant="ema", columns={"voters": np.array([2, 3], np.float32)}),
                rows(
                    variant="top",
                    kind="log_probs",
                    values=np.array([[-0.5, -1], [0, -80]], np.float32),
                    support=np.array([[3], [0]], np.int32),
                ),
            ),
            per_client={4: (rows(space="class", kind="logits"),), 7: ()},
            extras=(Extra(kind="acceptance", data={"accepted": 3, "rejected": 4}),),
        ),
        refs={0: StateRef(f"{folder}/a", "a" * 32), 1: StateRef("round-000001/b", "b" * 32), 2: StateRef("", "c" * 32)},
        scores={0: 0.5, 1: 0.1},
        position={"metrics": 120, "timings": 33},
    )


def assert_rows_equal(got: Rows, sent: Rows) -> None:
    assert got.stream == sent.stream
    np.testing.assert_array_equal(got.ids, sent.ids)
    np.testing.assert_array_equal(got.values, sent.values)
    assert (got.ids.dtype, got.values.dtype) == (sent.ids.dtype, sent.values.dtype)
    assert (got.weight is None) == (sent.weight is None)
    if sent.weight is not None:
        np.testing.assert_array_equal(got.weight, sent.weight)
    assert (got.support is None) == (sent.support is None)
    if sent.support is not None:
        np.testing.assert_array_equal(got.support, sent.support)
    assert got.columns.keys() == sent.columns.keys()
    for name in sent.columns:
        np.testing.assert_array_equal(got.columns[name], sent.columns[name])


def test_progress_comes_back(tmp_path: Path) -> None:
    saved = Checkpoints(tmp_path).save(progress())
    got = Checkpoints(tmp_path).load()
    assert got is not None
    assert (got.next_round, got.refs, got.scores, got.position, got.folders) == (
        3,
        saved.refs,
        saved.scores,
        saved.position,
        saved.folders,
    )
    assert got.scheme["rounds"] == 2
    assert torch.equal(got.scheme["model"]["w"], torch.arange(3.0))
    for found, expected in zip(got.knowledge.common, saved.knowledge.common, strict=True):
        assert_rows_equal(found, expected)
    assert got.knowledge.per_client.keys() == {4, 7}
    assert got.knowledge.per_client[7] == ()
    assert got.knowledge.extras == saved.knowledge.extras
    assert_rows_equal(got.knowledge.per_client[4][0], saved.knowledge.per_client[4][0])


def test_an_empty_progress_comes_back(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save(Progress())
    got = Checkpoints(tmp_path).load()
    assert got is not None
    assert (got.next_round, got.scheme, got.refs, got.scores) == (0, {}, {}, {})
    assert got.knowledge.is_empty


SETTING = Setting(
    proxy=Samples(np.arange(6, dtype=np.float32).reshape(3, 1, 2)),
    version="v",
    labels=np.array([2, 0, 1]),
    accepted={0: np.array([True, False, True]), 2: np.zeros(3, bool)},
    refs={0: StateRef("setup/a", "a" * 32)},
)


def test_a_setting_comes_back(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save_setting(SETTING)
    got = Checkpoints(tmp_path).load_setting()
    assert got is not None
    assert got.proxy is not None
    assert SETTING.proxy is not None
    np.testing.assert_array_equal(got.proxy.x, SETTING.proxy.x)
    assert got.proxy.y is None
    assert (got.version, got.refs) == ("v", SETTING.refs)
    np.testing.assert_array_equal(got.labels, SETTING.labels)
    assert got.accepted.keys() == {0, 2}
    for client_id, mask in SETTING.accepted.items():
        np.testing.assert_array_equal(got.accepted[client_id], mask)


def test_a_setting_without_a_proxy_comes_back(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save_setting(Setting())
    got = Checkpoints(tmp_path).load_setting()
    assert got is not None
    assert (got.proxy, got.labels, got.version, got.accepted) == (None, None, "", {})


def test_nothing_is_found_in_an_empty_folder(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path).load() is None
    assert Checkpoints(tmp_path).load_setting() is None


def test_two_checkpoints_are_kept(tmp_path: Path) -> None:
    for number in (0, 5, 10, 15):
        Checkpoints(tmp_path).save(progress(number))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-000010.safetensors", "round-000015.safetensors"]


def test_the_states_of_two_checkpoints_and_of_now_are_kept(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    now = store.save(progress(1, "round-000000"))
    now = store.save(replace(progress(3, "round-000002"), folders=now.folders))
    now = store.save(replace(progress(5, "round-000004"), folders=now.folders))
    now = replace(now, refs={0: StateRef("round-000005/x", "x" * 32)})
    assert now.keep() == ("round-000001", "round-000002", "round-000004", "round-000005")


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


@pytest.mark.parametrize("spoil", [damage, cut])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, spoil: Any) -> None:
    Checkpoints(tmp_path).save(progress(2))
    Checkpoints(tmp_path).save(progress(4))
    spoil(tmp_path / "round-000004.safetensors")
    got = Checkpoints(tmp_path).load()
    assert got is not None
    assert got.next_round == 2


def test_a_checkpoint_of_another_version_gives_way_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Checkpoints(tmp_path).save(progress(2))
    with monkeypatch.context() as patched:
        patched.setattr(Progress, "to_tree", lambda _: {"next_round": 4})
        Checkpoints(tmp_path).save(progress(4))
    got = Checkpoints(tmp_path).load()
    assert got is not None
    assert got.next_round == 2


def test_damage_to_all_is_told(tmp_path: Path) -> None:
    for number in (2, 4):
        Checkpoints(tmp_path).save(progress(number))
        damage(tmp_path / f"round-{number:06d}.safetensors")
    with pytest.raises(StateError, match=r"no checkpoint can be used: .*000004.*000002.*start the run anew"):
        Checkpoints(tmp_path).load()


def test_a_damaged_setting_is_told(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save_setting(SETTING)
    damage(tmp_path / "setting.safetensors")
    with pytest.raises(StateError, match=r"the set-up cannot be used: .*setting.*start the run anew"):
        Checkpoints(tmp_path).load_setting()
