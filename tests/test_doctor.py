"""`fedkd doctor`: what this machine has."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version

import pytest
import torch

from fedkd import doctor


def test_all_that_is_needed_is_here() -> None:
    found = {check.name: check for check in doctor.examine()}
    assert set(doctor.NEEDED) < set(found)
    assert all(check.is_ok for check in found.values() if check.is_needed)
    assert found["torch"].text == version("torch")
    assert json.loads(json.dumps([check.to_json() for check in found.values()]))


def test_what_is_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> str:
        if name in ("ray", "torch"):
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(doctor, "version", find)
    found = {check.name: check for check in doctor.examine()}
    assert (found["ray"].is_ok, found["ray"].is_needed) == (False, False)
    assert "pip install 'fedkd[simulation]'" in found["ray"].text
    assert (found["torch"].is_ok, found["torch"].is_needed) == (False, True)
    assert "pip install 'fedkd'" in found["torch"].text


@pytest.mark.parametrize("has_gpu", [True, False])
def test_the_accelerator_is_named_and_never_needed(has_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "a GPU")
    check = next(check for check in doctor.examine() if check.name == "accelerator")
    assert (check.is_ok, check.is_needed) == (has_gpu, False)
    assert ("a GPU" in check.text) is has_gpu
