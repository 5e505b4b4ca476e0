"""From what a person gives (preset, experiment file, overrides) to an Experiment: one merge order for all entrances."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedkd.errors import ConfigError
from fedkd.experiment import DEFAULT_CHOICES, Experiment, load_file, load_flat, merge, shared_keys
from fedkd.lookup import nearest
from fedkd.presets import preset_values
from fedkd.types import Flat, Scalar

SIMULATIONS = Path(__file__).resolve().parents[1] / "simulations"  # beside the package in a checkout and in a bundle


def compose(
    *, experiment: str = "", overrides: Mapping[str, Flat] | None = None, may_be_relative: bool = True
) -> Experiment:
    """Defaults < preset < experiment < overrides. Relative paths become absolute, from the folder this runs in.

    Args:
        experiment: a TOML path, the name of one in `simulations/`, or nothing.
        may_be_relative: false where the folder this runs in is not the user's: relative paths are then refused.
        overrides: origin (shown in messages) -> flat keys; later ones win. A `preset` among them wins over the file's.

    Raises:
        ConfigError: a file, key or value is wrong.
    """
    layers: dict[str, Flat] = {}
    if experiment:
        path = find_experiment(experiment)
        layers[f"file {path}"] = load_file(path)
    layers |= overrides or {}
    preset = "edgefd"
    for layer in layers.values():
        preset = str(layer.get("preset", preset))
    if experiment:
        origin = f"file {path}"
        layers[origin] = _of_this_preset(layers[origin], preset)
    values, origins = merge({f"preset {preset!r}": preset_values(preset), **layers})
    for key in Experiment.build(values, origins).path_keys():
        given = str(values.get(key, ""))
        if given and not Path(given).is_absolute() and not _is_on_hub(key, values):
            if not may_be_relative:
                raise ConfigError(
                    f"{key} (from {origins[key]}) is {given!r}, expected an absolute path: Flower's processes run in a "
                    "folder of their own choice",
                    key=key,
                )
            values[key] = str(Path(given).expanduser().absolute())
    return Experiment.build(values, origins)


def _is_on_hub(key: str, values: Flat) -> bool:
    """Whether a model's weights are named as on the hub: `<group>.download` allows it, and no such file is here."""
    group, _, name = key.rpartition(".")
    return name == "weights" and values.get(f"{group}.download") is True and not Path(str(values[key])).exists()


def _of_this_preset(layer: Flat, preset: str) -> Flat:
    """A file's keys without the options of choices that `preset` makes otherwise than the file's own preset.

    `filter.quantile` in a file for EdgeFD is an option of its filter; with `-c preset=local_only` nobody asked for it.
    """
    meant = preset_values(str(layer.get("preset", "edgefd")))
    chosen = preset_values(preset)
    dropped: set[str] = set()
    for group, entry in DEFAULT_CHOICES.items():
        name = f"{group}.name"
        if name not in layer and meant.get(name, entry) != chosen.get(name, entry):
            dropped |= {key for key in layer if key.startswith(f"{group}.")} - shared_keys(group)
    return {key: value for key, value in layer.items() if key not in dropped}


def find_experiment(name: str) -> Path:
    """The experiment file: a path as it is, else `simulations/<name>.toml`."""
    for path in (Path(name), SIMULATIONS / f"{name}.toml", Path("simulations") / f"{name}.toml"):
        if path.is_file():
            return path.resolve()
    known = experiment_names()
    listed = f" Experiments here: {', '.join(known)}" if known else " Give the path of a TOML file"
    raise ConfigError(
        f"experiment {name!r} is neither a file nor the name of one{nearest(name, known)}{listed}", key="experiment"
    )


def experiment_names() -> list[str]:
    """Names of the experiments in `simulations/`, such as `edgefd_digits` and `methods/wad`."""
    return sorted(path.relative_to(SIMULATIONS).with_suffix("").as_posix() for path in SIMULATIONS.rglob("*.toml"))


def parse_overrides(pairs: Sequence[str]) -> dict[str, Scalar]:
    """`key=value` pairs; a value that is no TOML stands for itself, so texts need no quotes."""
    values: dict[str, Scalar] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"override {pair!r} is no key=value pair; write for example -c rounds=5", key=pair)
        values[key.strip().replace("-", "_")] = _value(text.strip())
    return values


def from_run_config(config: Mapping[str, Scalar]) -> Experiment:
    """The experiment that Flower's run config describes.

    The core keys that pyproject.toml lists stand at "" (texts) or -1 (numbers) for `as the preset says`; `experiment`
    names a file and `overrides` is TOML text, for Flower refuses keys that it does not know.
    """
    given = {
        key.replace("-", "_"): value
        for key, value in config.items()
        if key not in RUN_KEYS and value != "" and (isinstance(value, bool | str) or value != -1)
    }
    layers: dict[str, Flat] = {"the run config": given}
    text = str(config.get("overrides", ""))
    if text:
        layers["overrides"] = load_flat(text, origin="overrides")
    return compose(experiment=str(config.get("experiment", "")), overrides=layers, may_be_relative=False)


RUN_KEYS = frozenset({"experiment", "overrides", "out", "resume-from"})  # of the run config, not of the experiment


def _value(text: str) -> Scalar:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return value if isinstance(value, bool | int | float | str) else text
