import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fedkd.errors import ConfigError, StateError
from fedkd.models.config import ModelConfig
from fedkd.models.weights import digest_of_files, file_of, find_weights, load_weights, restore, tensors_of


def net(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))


def saved(path: Path, module: nn.Module, **changes: torch.Tensor) -> Path:
    save_file({**module.state_dict(), **{name.replace("_", ".", 1): value for name, value in changes.items()}}, path)
    return path


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
        self.b.weight = self.a.weight


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("here.pt", r"expected a .safetensors file: pickled checkpoints are not loaded"),
        ("pickles", r"the folder '.*pickles', which holds no .safetensors file, and nothing else is loaded"),
        ("nowhere.safetensors", r"neither a file nor a folder here; correct the path, or set download = true"),
    ],
)
def test_a_path_that_is_no_safetensors_is_refused(file: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "here.pt").write_bytes(b"")
    (tmp_path / "pickles").mkdir()
    (tmp_path / "pickles" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ConfigError, match=message) as caught:
        find_weights(ModelConfig(weights=str(tmp_path / file)))
    assert caught.value.key == "weights"


def test_a_name_on_the_hub_needs_leave_to_download(tmp_path: Path) -> None:
    assert find_weights(ModelConfig(weights="someone/something", download=True)) is None
    file = saved(tmp_path / "x.safetensors", net())
    assert find_weights(ModelConfig(weights=str(file), download=True)) == file


def test_the_one_file_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no model.safetensors; name the file itself"):
        file_of(tmp_path)
    file = saved(tmp_path / "model.safetensors", net())
    assert file_of(tmp_path) == file == file_of(file)


def test_the_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    file = saved(tmp_path / "model.safetensors", net())
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert digest_of_files(file) == digest
    assert digest_of_files(tmp_path) == hashlib.sha256(digest.encode()).hexdigest()


def test_weights_and_buffers_are_those_of_the_file(tmp_path: Path) -> None:
    source, target = net(), net()
    source[1].running_mean += 3  # type: ignore[index]
    load_weights(target, saved(tmp_path / "x.safetensors", source), name="net")
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name])


@pytest.mark.parametrize(
    ("module", "changes", "message"),
    [
        (nn.Linear(2, 3), {}, r"it lacks 0.weight, 0.bias, 1.weight and 4 more; it has besides bias, weight"),
        (net(), {"2_bias": torch.zeros(1)}, r"it has besides 2.bias\. Name the model"),
        (net(4), {}, r"other shapes: .*0.weight is \(4, 2\), expected \(3, 2\)"),
    ],
)
def test_another_architecture_is_one_error_with_file_and_keys(
    module: nn.Module, changes: dict[str, torch.Tensor], message: str, tmp_path: Path
) -> None:
    file = saved(tmp_path / "x.safetensors", module, **changes)
    target = net()
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(
        ConfigError, match=rf"x.safetensors'.*of another architecture than 'net': .*{message}"
    ) as caught:
        load_weights(target, file, name="net")
    assert caught.value.key == "weights"
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


def test_a_file_that_is_damaged_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_weights(net(), tmp_path / "x.safetensors", name="net")


def test_tied_tensors_stand_once() -> None:
    tied = Tied()
    assert list(tensors_of(tied)) == ["a.weight", "a.bias", "b.bias"]
    assert list(tensors_of(net())) == list(net().state_dict())
    other = Tied()
    restore(other, {name: tensor.clone() for name, tensor in tensors_of(tied).items()})
    assert torch.equal(other.b.weight, tied.a.weight)
    assert other.b.weight is other.a.weight


def test_a_state_of_another_module_is_refused() -> None:
    state = net().state_dict()
    part = {name: tensor for name, tensor in state.items() if name != "0.bias"}
    with pytest.raises(StateError, match="it lacks"):
        restore(net(), part)
    restore(net(), part, strict=False)
    for wrong in ({**state, "2.bias": torch.zeros(1)}, net(4).state_dict()):
        for strict in (True, False):
            with pytest.raises(StateError, match="belongs to another architecture"):
                restore(net(), wrong, strict=strict)
