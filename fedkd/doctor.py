"""What this machine has: the first thing to run on a new device."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

NEEDED = ("numpy", "scikit-learn", "safetensors", "torch", "torchvision", "flwr")
OPTIONAL = (
    ("ray", "simulation"),
    ("matplotlib", "viz"),
    ("jinja2", "viz"),
    ("datasets", "hub"),
    ("timm", "vision"),
    ("transformers", "llm"),
    ("diffusers", "diffusion"),
    ("tensorboardX", "tracking"),
    ("optuna", "tune"),
)


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    text: str
    is_ok: bool
    is_needed: bool = True

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def examine() -> list[Check]:
    """Versions, extras, processor and accelerator of this machine."""
    found = [
        Check("python", platform.python_version(), sys.version_info >= (3, 11)),
        Check("machine", f"{platform.machine()}, {os.cpu_count()} cores", True),
    ]
    found += [_package(name, "", is_needed=True) for name in NEEDED]
    found += [_package(name, extra, is_needed=False) for name, extra in OPTIONAL]
    return [*found, *_accelerator()]


def _package(name: str, extra: str, *, is_needed: bool) -> Check:
    try:
        return Check(name, version(name), True, is_needed)
    except PackageNotFoundError:
        return Check(name, f"not installed; pip install 'fedkd{f'[{extra}]' if extra else ''}'", False, is_needed)


def _accelerator() -> list[Check]:
    """Whether torch sees GPUs, and each of those that are visible to it."""
    try:
        import torch
    except ImportError as error:
        return [Check("accelerator", f"torch does not import: {error}", False)]
    if not torch.cuda.is_available():
        return [Check("accelerator", "none that torch sees; clients train on the CPU", False, False)]
    count = torch.cuda.device_count()
    return [
        Check(
            "accelerator",
            f"{count} GPU{'s' if count > 1 else ''} that torch sees, CUDA {torch.version.cuda}",
            True,
            False,
        ),
        *(_gpu(number, torch.cuda.get_device_properties(number)) for number in range(count)),
    ]


def _gpu(number: int, gpu: Any) -> Check:
    """Its name, memory and compute capability."""
    memory = f"{gpu.total_memory / 2**30:.1f} GiB"
    return Check(f"gpu {number}", f"{gpu.name}, {memory}, compute capability {gpu.major}.{gpu.minor}", True, False)
