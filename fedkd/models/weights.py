"""Weights from local files, and the tensors of a module by name. Only safetensors: nothing that could run code."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fedkd.errors import ConfigError, StateError
from fedkd.models.config import ModelConfig

SUFFIX = ".safetensors"
_SHOWN = 3  # keys of each sort that a message names


def find_weights(config: ModelConfig) -> Path | None:
    """The file or folder that `weights` names; None where it stands for a name on the hub.

    Raises:
        ConfigError: there is no such file or folder, or it holds no safetensors.
    """
    path = Path(config.weights)
    if path.is_dir():
        if not any(path.glob(f"*{SUFFIX}")):
            raise ConfigError(
                f"is the folder {str(path)!r}, which holds no {SUFFIX} file, and nothing else is loaded; convert the "
                "weights, in transformers and diffusers with save_pretrained",
                key="weights",
            )
        return path
    if path.is_file():
        if path.suffix != SUFFIX:
            raise ConfigError(
                f"is {str(path)!r}, expected a {SUFFIX} file: pickled checkpoints are not loaded, for they can run "
                "code; save the state dict with safetensors.torch.save_file",
                key="weights",
            )
        return path
    if not config.download:
        raise ConfigError(
            f"is {config.weights!r}, which is neither a file nor a folder here; correct the path, or set download = "
            "true to take it for a name on the Hugging Face hub",
            key="weights",
        )
    return None


def file_of(path: Path) -> Path:
    """The one file of weights at `path`; ConfigError where a folder has none of the usual name."""
    file = path / f"model{SUFFIX}" if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(f"is the folder {str(path)!r}, which has no {file.name}; name the file itself", key="weights")
    return file


def digest_of_files(path: Path) -> str:
    """SHA-256 of the file, or of the digests of the folder's safetensors files in the order of their names."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    parts = [digest_of_files(file) for file in sorted(path.glob(f"*{SUFFIX}"))]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def load_weights(model: nn.Module, file: Path, *, name: str) -> None:
    """Fill `model` from a safetensors file, which has to hold exactly its tensors (tied ones once or more often).

    Raises:
        ConfigError: the file cannot be read, or is a checkpoint of another architecture.
    """
    try:
        found = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"is {str(file)!r}, which cannot be read: {error}; check the file", key="weights") from error
    state = model.state_dict()
    refuse_other(
        file,
        name=name,
        missing=_missing(model, found),
        unexpected=[key for key in found if key not in state],
        misshapen=[
            f"{key} is {tuple(value.shape)}, expected {tuple(state[key].shape)}"
            for key, value in found.items()
            if key in state and value.shape != state[key].shape
        ],
    )
    model.load_state_dict(found, strict=False)


def refuse_other(
    source: Path | str, *, name: str, missing: Iterable[str], unexpected: Iterable[str], misshapen: Iterable[str]
) -> None:
    """ConfigError naming the first keys that do not fit; nothing where all do."""
    parts = []
    for words, keys in (("it lacks", missing), ("it has besides", unexpected), ("other shapes:", misshapen)):
        listed = list(keys)
        if listed:
            more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
            parts.append(f"{words} {', '.join(listed[:_SHOWN])}{more}")
    if parts:
        raise ConfigError(
            f"is {str(source)!r}, which is a checkpoint of another architecture than {name!r}: {'; '.join(parts)}. "
            "Name the model that was saved, with its options, or other weights",
            key="weights",
        )


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers by name, those that share memory (tied weights) once, under their first name."""
    seen = set()
    kept = {}
    for name, tensor in model.state_dict().items():
        place = _place(tensor)
        if place is not None and place in seen:
            continue
        seen.add(place)
        kept[name] = tensor
    return kept


def restore(model: nn.Module, weights: Mapping[str, Tensor], *, strict: bool = True) -> None:
    """Fill `model` from a state; where not `strict`, tensors that `weights` lacks keep their values.

    Raises:
        StateError: the state belongs to another module.
    """
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise StateError(f"the state does not fit the model: {error}; it belongs to another architecture") from error
    if strict and missing:
        missing = _missing(model, weights)
    if unexpected or (strict and missing):
        raise StateError(
            f"the state does not fit the model: it lacks {list(missing)[:_SHOWN]} and has besides "
            f"{list(unexpected)[:_SHOWN]}; it belongs to another architecture"
        )


def _missing(model: nn.Module, given: Mapping[str, Tensor]) -> list[str]:
    """Names that `given` lacks; a tied tensor is given where one of its names is."""
    state = model.state_dict()
    places = {_place(state[name]) for name in given if name in state} - {None}
    return [name for name, tensor in state.items() if name not in given and _place(tensor) not in places]


def _place(tensor: Tensor) -> tuple[object, ...] | None:
    """Equal for tensors that are the same memory; None for those that have none."""
    if not tensor.numel() or not tensor.data_ptr():
        return None
    return (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
