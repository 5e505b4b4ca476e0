"""From a sweep file to its cells: what is varied, and every combination of it."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedkd.compose import compose
from fedkd.errors import ConfigError, DataError, MissingExtraError
from fedkd.experiment import CHOICES, PLAIN, Experiment, flatten
from fedkd.federation.preflight import preflight
from fedkd.lookup import nearest
from fedkd.report.cells import keys_of_numbers
from fedkd.report.compare.note import SweepNote
from fedkd.types import Flat, Scalar

GROUPS = frozenset({*PLAIN, *CHOICES})
_TABLES = ("sweep", "base", "axes", "published")
_ABOUT = ("name", "title")


@dataclass(frozen=True, eq=False, kw_only=True)
class Cell:
    """One combination.

    Attributes:
        labels: axis -> the value as a person reads it, in the order of the axes.
        values: flat keys, those of [base] included.
        origin: where they are from, for messages.
        given: keys of the command line, which win.
    """

    labels: Mapping[str, str]
    values: Flat
    origin: str
    given: Flat = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of its file: the labels, with what a file name cannot hold replaced."""
        parts = (f"{axis}={text}" for axis, text in self.labels.items())
        return re.sub(r"[^\w.=,()-]+", "_", ",".join(parts))

    def experiment(self, extra: Flat | None = None) -> Experiment:
        """The experiment of this cell; ConfigError that names the cell where it makes none."""
        layers = {self.origin: dict(self.values), "the command line": {**self.given, **(extra or {})}}
        named = [str(layer.pop("experiment")) for layer in layers.values() if "experiment" in layer]
        try:
            return compose(experiment=named[-1] if named else "", overrides=layers).check()
        except ConfigError as error:
            raise ConfigError(f"cell {self.name}: {error}", key=error.key) from error


@dataclass(frozen=True, eq=False, kw_only=True)
class Sweep:
    """A whole table of cells.

    Attributes:
        axes: names of what is varied, in order; `seed` is always one.
        note: what the comparison has to know: title, axes, published figures.
    """

    name: str
    title: str
    axes: tuple[str, ...]
    cells: tuple[Cell, ...]
    note: SweepNote


def load_sweep(path: Path, overrides: Flat | None = None) -> Sweep:
    """The sweep that a TOML file describes.

    [base] holds keys of every cell, flat or by group, and may name an `experiment`. [axes] holds lists: of values for a
    key (`preset`, "model.hidden"), of names for a group (`partition = ["strong", "iid"]`), or of tables for a group
    (`partition = [{ name = "dirichlet", alpha = 0.1 }]`), in which a `label` is what people read. Every combination of
    the axes is a cell. `overrides` are keys of every cell that win over all else.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"sweep {path} cannot be read: {error.strerror}; check the path", key="sweep") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"sweep {path} is no valid TOML: {error}", key="sweep") from error
    for table in tree:
        if table not in _TABLES:
            raise ConfigError(
                f"sweep {path} has a table or key {table!r}{nearest(table, _TABLES)} Expected: {', '.join(_TABLES)}",
                key=table,
            )
    origin, fixed = f"sweep {path}", overrides or {}
    base = flatten(tree.get("base", {}), origin=origin)
    axes = _axes(tree.get("axes", {}), path, fixed=fixed)
    cells = tuple(
        Cell(
            labels={axis: label for axis, (label, _) in zip(axes, chosen, strict=True)},
            values={**base, **{key: value for _, values in chosen for key, value in values.items()}},
            origin=origin,
            given=fixed,
        )
        for chosen in itertools.product(*axes.values())
    )
    names = [cell.name for cell in cells]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(
            f"{origin}: two cells are called {twice!r}; give the values of an axis different labels", key="axes"
        )
    about = tree.get("sweep", {})
    for key in about:
        if key not in _ABOUT:
            raise ConfigError(
                f"{origin}: [sweep] has a key {key!r}{nearest(key, _ABOUT)} Expected: {', '.join(_ABOUT)}", key="sweep"
            )
    title = str(about.get("title", path.stem))
    return Sweep(
        name=str(about.get("name", path.stem)),
        title=title,
        axes=tuple(axes),
        cells=cells,
        note=SweepNote.of_plan(
            title,
            [cell.labels for cell in cells],
            published=tree.get("published", ()),
            command=f"fedkd compare {path.stem if path.parent.name == 'compare' else path.name}",
        ),
    )


def check_sweep(sweep: Sweep) -> None:
    """Check every cell as far as that can be done without running it; data and models once for all seeds of a setting.

    Raises:
        ConfigError, DataError, MissingExtraError: the first cell that cannot run, by name, before anything runs.
    """
    seen: set[str] = set()
    for cell in sweep.cells:
        experiment = cell.experiment()
        setting = fingerprint(experiment, without=("seed",))
        if setting in seen:
            continue
        seen.add(setting)
        try:
            preflight(experiment)
        except ConfigError as error:
            raise ConfigError(f"cell {cell.name}: {error}", key=error.key) from error
        except (DataError, MissingExtraError) as error:
            raise type(error)(f"cell {cell.name}: {error}") from error


def fingerprint(experiment: Experiment, *, without: Sequence[str] = ()) -> str:
    """Digest of all keys that a run's numbers depend on."""
    flat = {key: value for key, value in keys_of_numbers(experiment.flat()).items() if key not in without}
    return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()


def _axes(tree: Mapping[str, Any], path: Path, *, fixed: Flat) -> dict[str, list[tuple[str, dict[str, Scalar]]]]:
    """Axis -> (label, keys) of each of its values; the seed last, one seed where none is named."""
    axes: dict[str, list[tuple[str, dict[str, Scalar]]]] = {}
    for axis, given in _listed(tree, path):
        if not isinstance(given, list) or not given:
            raise ConfigError(
                f"sweep {path}: axis {axis!r} is {given!r}, expected a list of one or more values", key=axis
            )
        axes[axis] = [_value(axis, value, path) for value in given]
    for axis, found in axes.items():
        taken = sorted({key for _, values in found for key in values}.intersection(fixed) - {"seed"})
        if taken:
            raise ConfigError(
                f"{taken[0]} is given on the command line as {fixed[taken[0]]!r}, but sweep {path} varies it (axis "
                f"{axis!r}), so the labels of its cells would be wrong; leave it out, or change the sweep",
                key=taken[0],
            )
    if "seed" in fixed:
        axes["seed"] = [(str(fixed["seed"]), {"seed": fixed["seed"]})]
    seeds = axes.pop("seed", [("0", {"seed": 0})])
    return {**axes, "seed": seeds}


def _listed(tree: Mapping[str, Any], path: Path, prefix: str = "") -> list[tuple[str, Any]]:
    """The axes by full name: TOML reads `model.hidden = [...]` as a table in a table."""
    found: list[tuple[str, Any]] = []
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found += _listed(value, path, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", value))
    return found


def _value(axis: str, value: Any, path: Path) -> tuple[str, dict[str, Scalar]]:
    """The label and the keys of one value."""
    if isinstance(value, Mapping):
        inner = dict(value)
        label = inner.pop("label", None)
        keys = flatten({axis: inner} if axis in GROUPS else inner, origin=f"sweep {path}, axis {axis}")
        if label is None:
            name = inner.get("name", "")
            rest = ",".join(f"{key}={part}" for key, part in inner.items() if key != "name")
            label = f"{name}({rest})" if name and rest else str(name) or rest
        return str(label), keys
    if isinstance(value, bool | int | float | str):
        return str(value), {f"{axis}.name" if axis in GROUPS else axis: value}
    raise ConfigError(
        f"sweep {path}: axis {axis!r} holds {value!r}, expected single values or tables of keys", key=axis
    )
