"""The state store: one safetensors file per cohort and round, written beside and renamed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from fedkd.errors import StateError
from fedkd.federation import tree
from fedkd.federation.wire import Parcel, save_arrays
from fedkd.files import cannot_write, write_atomic

SETUP = "setup"  # what is found out once, before the first round: never pruned


@dataclass(frozen=True)
class StateRef:
    """Where a client's state lies (relative to the state root; "" where it is only in memory) and its digest.

    A state that is only in memory may have `in_memory(round)` in place of a digest.
    """

    file: str
    digest: str

    def to_json(self) -> list[str]:
        """[file, digest]."""
        return [self.file, self.digest]

    @classmethod
    def from_json(cls, value: Iterable[Any] | None) -> StateRef | None:
        """The reference, or None for a client that has no state yet."""
        if value is None:
            return None
        file, digest = value
        return cls(str(file), str(digest))


def in_memory(round_id: int) -> StateRef:
    """A state that its worker alone has, and which no other of that client can be taken for."""
    return StateRef("", f"@{round_id}")


@dataclass(frozen=True)
class StateStore:
    """Files below an absolute root."""

    root: Path

    def write(
        self, folder: str, parcels: Mapping[int, Parcel], digests: Mapping[int, str], *, durable: bool = True
    ) -> str:
        """Write the states of a cohort; the file's name relative to the root. See `write_atomic` for `durable`."""
        first, last = min(parcels), max(parcels)
        name = f"{folder}/{first:06d}-{last:06d}-{len(parcels)}-{digests[first][:8]}.safetensors"
        header = {"clients": {str(i): [digests[i], parcels[i].header] for i in parcels}}
        arrays = {f"{i}/{key}": array for i, parcel in parcels.items() for key, array in parcel.arrays.items()}
        path = self.root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(path, error) from error
        write_atomic(path, save_arrays(header, arrays), durable=durable)
        return name

    def read(self, ref: StateRef, client_id: int) -> Any:
        """The state tree of one client; only its own arrays are read.

        Raises:
            StateError: the file is missing, truncated, or holds another state than the one expected.
        """
        path = self.root / ref.file
        try:
            if not ref.file:
                raise StateError("it was never written")
            with safe_open(path, framework="np") as file:
                found, header = json.loads(file.get_tensor("header").tobytes())["clients"][str(client_id)]
                prefix = f"{client_id}/"
                keys = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118 - no mapping
                parcel = Parcel(header, {key.removeprefix(prefix): file.get_tensor(key) for key in keys})
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, StateError) as error:
            raise StateError(
                f"client {client_id}: state {ref.digest[:8]} cannot be read from {path}: {error}; "
                "resume from an earlier checkpoint"
            ) from error
        if found != ref.digest or tree.digest(parcel) != ref.digest:
            raise StateError(
                f"client {client_id}: {path} holds another state than {ref.digest[:8]}; it was changed or damaged"
            )
        return tree.from_parcel(parcel)

    def prune(self, keep: Collection[str], *, before: int) -> None:
        """Remove the folders of rounds earlier than `before` that are not in `keep`.

        Never later ones: other workers may have written them while this one was late.
        """
        if not self.root.is_dir():
            return
        for folder in self.root.glob(f"{_ROUND}*"):
            if folder.name not in keep and folder.name < round_folder(before):
                shutil.rmtree(folder, ignore_errors=True)  # another worker may be removing it too


_ROUND = "round-"


def round_folder(round_id: int) -> str:
    """The folder of the states after a round."""
    return f"{_ROUND}{round_id:06d}"
