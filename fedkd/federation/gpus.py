"""Which GPU each child process works on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible_gpus(environ: Mapping[str, str], count: int) -> tuple[str, ...]:
    """The names of the GPUs that a process sees, as `CUDA_VISIBLE_DEVICES` lists them: numbers, `GPU-...`, `MIG-...`.

    Args:
        count: how many torch counts there: a list may end in names that CUDA does not take, such as -1.
    """
    listed = environ.get(VISIBLE)
    names = [str(number) for number in range(count)] if listed is None else listed.split(",")
    return tuple(name.strip() for name in names[:count])


def gpu_environment(worker: int, gpus: Sequence[str]) -> dict[str, str]:
    """What makes a worker see one GPU: they are dealt in turn, and shared where there are more workers."""
    return {VISIBLE: gpus[worker % len(gpus)]} if gpus else {}
