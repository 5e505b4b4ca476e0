"""`fedkd doctor`: what this machine has."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace

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


def test_without_a_gpu_the_cpu_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check = next(check for check in doctor.examine() if check.name == "accelerator")
    assert (check.is_ok, check.is_needed) == (False, False)
    assert "CPU" in check.text


def test_every_gpu_is_told_with_memory_and_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimpleNamespace(name="a GPU", total_memory=24 * 2**30, major=8, minor=9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: gpu)
    found = {check.name: check for check in doctor.examine()}
    assert found["accelerator"].text.startswith("2 GPUs")
    for name in ("gpu 0", "gpu 1"):
        assert found[name].text == "a GPU, 24.0 GiB, compute capability 8.9"
        assert not found[name].is_needed
