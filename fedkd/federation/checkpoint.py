"""Checkpoints of the coordinator: what it must know to go on as if nothing had happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedkd.errors import BadReplyError, StateError
from fedkd.federation import tree
from fedkd.federation.setting import Setting
from fedkd.federation.store import StateRef
from fedkd.federation.wire import Parcel, load_arrays, save_arrays
from fedkd.files import write_atomic
from fedkd.rows import Extra, Knowledge, Rows

KEPT = 2  # checkpoints on disk: the newest and the one before


@dataclass(frozen=True, eq=False, kw_only=True)
class Progress:
    """Where the run stands between two rounds."""

    next_round: int = 0
    scheme: dict[str, Any] = field(default_factory=dict)
    knowledge: Knowledge = field(default_factory=Knowledge)
    refs: Mapping[int, StateRef] = field(default_factory=dict)
    scores: Mapping[int, float] = field(default_factory=dict)  # last known, for the mean over all clients
    position: Mapping[str, int] = field(default_factory=dict)  # where the event files end
    folders: tuple[tuple[str, ...], ...] = ()  # folders of states that the last checkpoints refer to, newest first

    def to_tree(self) -> dict[str, Any]:
        """Plain arrays, numbers and texts."""
        return {
            "next_round": self.next_round,
            "scheme": self.scheme,
            "common": [rows.to_tree() for rows in self.knowledge.common],
            "per_client": {str(i): [rows.to_tree() for rows in own] for i, own in self.knowledge.per_client.items()},
            "extras": [extra.to_json() for extra in self.knowledge.extras],
            "refs": {str(i): ref.to_json() for i, ref in self.refs.items()},
            "scores": {str(i): score for i, score in self.scores.items()},
            "position": dict(self.position),
            "folders": [list(names) for names in self.folders],
        }

    @classmethod
    def from_tree(cls, saved: Mapping[str, Any]) -> Progress:
        """What `to_tree` made."""
        refs = {int(i): StateRef.from_json(ref) for i, ref in saved["refs"].items()}
        knowledge = Knowledge(
            common=tuple(Rows(**rows) for rows in saved["common"]),
            per_client={int(i): tuple(Rows(**rows) for rows in own) for i, own in saved["per_client"].items()},
            extras=tuple(Extra.from_json(extra) for extra in saved["extras"]),
        )
        return cls(
            next_round=saved["next_round"],
            scheme=saved["scheme"],
            knowledge=knowledge,
            refs={i: ref for i, ref in refs.items() if ref is not None},
            scores={int(i): score for i, score in saved["scores"].items()},
            position=saved["position"],
            folders=tuple(tuple(names) for names in saved["folders"]),
        )

    def keep(self) -> tuple[str, ...]:
        """Folders of states that may still be asked for: by the next round, or by a resume."""
        now = {ref.file.partition("/")[0] for ref in self.refs.values() if ref.file}
        return tuple(sorted(now.union(*self.folders)))


@dataclass(frozen=True)
class Checkpoints:
    """Files in a run's checkpoint folder."""

    folder: Path

    def save_setting(self, setting: Setting) -> None:
        """What the set-up found out."""
        _write(self.folder / "setting.safetensors", tree.to_parcel(setting.to_tree()))

    def load_setting(self) -> Setting | None:
        """The setting, or None where the run was stopped before it was whole.

        Raises:
            StateError: it is damaged.
        """
        path = self.folder / "setting.safetensors"
        try:
            return Setting.from_tree(_read(path)) if path.exists() else None
        except StateError as error:
            raise StateError(f"the set-up cannot be used: {error}; start the run anew") from error

    def save(self, progress: Progress) -> Progress:
        """Write a checkpoint, drop the older ones; the progress, knowing which folders of states it leans on."""
        own = tuple(sorted({ref.file.partition("/")[0] for ref in progress.refs.values() if ref.file}))
        progress = replace(progress, folders=(own, *progress.folders)[:KEPT])
        _write(self._path(progress.next_round), tree.to_parcel(progress.to_tree()))
        for path in self._all()[KEPT:]:
            path.unlink(missing_ok=True)
        return progress

    def load(self) -> Progress | None:
        """The newest valid checkpoint, or None where there is none.

        Raises:
            StateError: there are checkpoints, but all are damaged.
        """
        faults = []
        for path in self._all():
            try:
                return Progress.from_tree(_read(path))
            except StateError as error:
                faults.append(str(error))
            except (KeyError, TypeError, ValueError) as error:
                faults.append(f"{path} lacks or garbles {error}: another fedkd wrote it")
        if faults:
            raise StateError(f"no checkpoint can be used: {'; '.join(faults)}; start the run anew")
        return None

    def _all(self) -> list[Path]:
        return sorted(self.folder.glob("round-*.safetensors"), reverse=True)

    def _path(self, next_round: int) -> Path:
        return self.folder / f"round-{next_round:06d}.safetensors"


def _write(path: Path, parcel: Parcel) -> None:
    header = {"digest": tree.digest(parcel), **parcel.header}
    write_atomic(path, save_arrays(header, parcel.arrays))


def _read(path: Path) -> Any:
    """The tree in a file; StateError where it is damaged."""
    try:
        header, arrays = load_arrays(path.read_bytes())
        found = header.pop("digest")
    except (OSError, BadReplyError, KeyError) as error:
        raise StateError(f"{path} cannot be read: {error}") from error
    parcel = Parcel(header, arrays)
    if tree.digest(parcel) != found:
        raise StateError(f"{path} does not hold what its digest names; it was changed or damaged")
    return tree.from_parcel(parcel)
