"""One frozen description of an experiment, and the way from flat keys to it.

Keys are flat: `seed`, or `<group>.<key>`. Where a group is a choice, `<group>.name` picks an entry of a table (or
`package.module:Class`) and the other keys are those of that entry's own Config.
"""

from __future__ import annotations

import dataclasses
import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from fedkd.checks import check_choice, check_range
from fedkd.data import PARTITIONS
from fedkd.data.config import DataConfig
from fedkd.data.proxy import ProxyConfig
from fedkd.data.roles import RolesConfig
from fedkd.errors import ConfigError
from fedkd.exchange import CODECS, SCHEMES
from fedkd.filters import FILTERS
from fedkd.filters.features import FEATURES, check_features
from fedkd.filters.selection import RULES
from fedkd.lookup import nearest, resolve
from fedkd.methods import METHODS
from fedkd.methods.schedule import ScheduleConfig
from fedkd.models.config import ModelConfig
from fedkd.settings import build_config, coerce, defaults_of, origin_of
from fedkd.tasks import TASKS
from fedkd.tasks.calls import PRECISIONS
from fedkd.types import Flat, Scalar

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class CoreConfig:
    """Keys without a group."""

    preset: str = "edgefd"  # the named combination that the other keys started from
    seed: int = 0  # every random stream derives from it
    rounds: int = 30
    num_clients: int = 10
    participation: float = 1.0  # share of the clients that each round asks; above 0, at most 1
    clients_per_node: int = 0  # Flower nodes get this many clients each; 0 deals them evenly over the nodes there are
    device: str = "auto"  # where clients train: auto, cpu, cuda

    def __post_init__(self) -> None:
        check_range("seed", self.seed, low=0)
        check_range("rounds", self.rounds, low=1)
        check_range("num_clients", self.num_clients, low=1)
        check_range("participation", self.participation, above=0.0, high=1.0)
        check_range("clients_per_node", self.clients_per_node, low=0)
        check_choice("device", self.device, ("auto", "cpu", "cuda"))


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """Keys of the group `filter` that hold for every filter."""

    paths: ClassVar[frozenset[str]] = frozenset({"checkpoint"})

    own_sample_stage: bool = True  # stage 1 of EdgeFD: what a client contributed itself is accepted unseen
    holdout: float = 0.2  # share of the private data kept from `fit` to calibrate the threshold on; 0..1
    rule: str = "threshold"  # threshold: yes or no; soft: weights; nearest: only the client with the largest margin
    softness: float = 0.1  # of the rule soft, in units of the margin (1 - d/T, or log of a ratio); > 0
    features: str = "pixels"  # what filters compare: pixels, pca, random_conv, checkpoint
    feature_dim: int = 64  # features of pca (at most) and random_conv; at least 1
    checkpoint: str = ""  # of features checkpoint: a .safetensors file with the model's weights
    feature_model: str = ""  # of features checkpoint: the model's name in torchvision, such as resnet18

    def __post_init__(self) -> None:
        check_range("holdout", self.holdout, above=0.0, below=1.0)
        check_choice("rule", self.rule, RULES)
        check_range("softness", self.softness, above=0.0)
        check_choice("features", self.features, FEATURES)
        check_range("feature_dim", self.feature_dim, low=1)
        check_features(self.features, checkpoint=self.checkpoint, model=self.feature_model)


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How the simulation runs; but for `precision` it changes no number if every client answers in time."""

    workers: int = 1  # processes that train clients side by side
    stack: str = "auto"  # train clients of one architecture as one stack: auto (where that was measured faster), always
    # (where it can be done), never
    gpus_per_worker: float = 0.0  # of the Flower engine: GPUs or a share of one; 0 shares out those of this machine
    precision: str = "float32"  # of forward passes: float32, or bf16 on a GPU (weights and losses stay float32)
    round_timeout_s: float = 3600.0  # later replies count as failures; one local worker cannot be interrupted
    min_good_replies: int = 1  # fewer good replies than this end the run with QuorumError

    def __post_init__(self) -> None:
        check_range("workers", self.workers, low=1)
        check_choice("stack", self.stack, ("auto", "always", "never"))
        check_range("gpus_per_worker", self.gpus_per_worker, low=0.0)
        check_choice("precision", self.precision, PRECISIONS)
        check_range("round_timeout_s", self.round_timeout_s, above=0.0)
        check_range("min_good_replies", self.min_good_replies, low=1)


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the run becomes durable."""

    every: int = 5  # rounds between checkpoints; the last round always makes one

    def __post_init__(self) -> None:
        check_range("every", self.every, low=1)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """When clients are evaluated."""

    every: int = 1  # rounds between evaluations; the closing message always evaluates

    def __post_init__(self) -> None:
        check_range("every", self.every, low=1)


@dataclass(frozen=True)
class Choice:
    """An entry of a table with its options; the class is imported when it is first asked for."""

    group: str
    name: str
    options: Flat
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @functools.cached_property
    def cls(self) -> Any:
        """The chosen class."""
        key = f"{self.group}.name"
        try:
            found = resolve(CHOICES[self.group], self.name, what=self.group)
        except ConfigError as error:
            raise ConfigError(f"{key}{origin_of(key, self.origins)} {error}", key=key) from error
        if not dataclasses.is_dataclass(getattr(found, "Config", None)):
            raise ConfigError(
                f"{key}{origin_of(key, self.origins)} is {self.name!r}, which has no dataclass `Config`; "
                f"write a {self.group} as the ones in the table are written",
                key=key,
            )
        return found

    @functools.cached_property
    def config(self) -> Any:
        """The entry's frozen Config, checked."""
        shared = ("name", *_common_keys(self.group))
        return build_config(self.cls.Config, self.options, group=self.group, origins=self.origins, shared=shared)

    def create(self, **extra: Any) -> Any:
        """A new instance of the chosen class."""
        return self.cls(self.config, **extra)


CHOICES: Mapping[str, Mapping[str, str]] = {
    "task": TASKS,
    "partition": PARTITIONS,
    "method": METHODS,
    "filter": FILTERS,
    "scheme": SCHEMES,
    "codec": CODECS,  # client to server
    "downlink": CODECS,  # server to client
}
COMMON: Mapping[str, type] = {"filter": SelectionConfig}  # keys of a choice group that every entry of it shares
PLAIN: Mapping[str, type] = {
    "data": DataConfig,
    "model": ModelConfig,
    "teacher": ModelConfig,  # read by methods that declare a teacher
    "roles": RolesConfig,
    "proxy": ProxyConfig,
    "schedule": ScheduleConfig,
    "engine": EngineConfig,
    "checkpoint": CheckpointConfig,
    "evaluate": EvaluateConfig,
}
SHORT: Mapping[str, str] = {"task": "task.name"}  # a key without a group that stands for a choice
DEFAULT_CHOICES: Mapping[str, str] = {
    "task": "classification",
    "partition": "strong",
    "method": "soft_targets",
    "filter": "kmeans",
    "scheme": "mean",
    "codec": "float32",
    "downlink": "float32",
}


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that decides what a run computes. Build it with `Experiment.build`."""

    core: CoreConfig
    selection: SelectionConfig
    data: DataConfig
    model: ModelConfig
    teacher: ModelConfig
    roles: RolesConfig
    proxy: ProxyConfig
    schedule: ScheduleConfig
    engine: EngineConfig
    checkpoint: CheckpointConfig
    evaluate: EvaluateConfig
    task: Choice
    partition: Choice
    method: Choice
    filter: Choice
    scheme: Choice
    codec: Choice
    downlink: Choice

    @classmethod
    def build(cls, values: Flat, origins: Mapping[str, str] | None = None) -> Experiment:
        """An experiment from flat keys; what is not given has its default.

        Choices are resolved when they are first used, so that a device that only says hello imports no torch;
        `check()` resolves them all.

        Raises:
            ConfigError: an unknown key (with the nearest right name), a wrong type or a value out of range.
        """
        values = _in_full({key.replace("-", "_"): value for key, value in values.items()})
        origins = _in_full(origins or {})
        split: dict[str, dict[str, Scalar]] = {group: {} for group in ("", *PLAIN, *CHOICES)}
        for flat, value in values.items():
            group, _, key = flat.rpartition(".")
            if group not in split:
                groups = sorted(filter(None, split))
                similar = nearest(flat, [f"{known}.{key}" for known in groups])
                raise ConfigError(
                    f"unknown key {flat!r}{origin_of(flat, origins)}{similar} Groups: {', '.join(groups)}", key=flat
                )
            split[group][key] = value
        top = split.pop("")
        _check_core_keys(top, origins)
        chosen: dict[str, Any] = {}
        selection: dict[str, Scalar] = {}
        for group in CHOICES:
            options = split[group]
            if group in COMMON:
                selection = {key: options.pop(key) for key in _common_keys(group) if key in options}
            name = coerce(options.pop("name", DEFAULT_CHOICES[group]), str, f"{group}.name", origins)
            chosen[group] = Choice(group, str(name), options, origins)
        plain = {group: build_config(kind, split[group], group=group, origins=origins) for group, kind in PLAIN.items()}
        return cls(
            core=build_config(CoreConfig, top, group="", origins=origins),
            selection=build_config(SelectionConfig, selection, group="filter", origins=origins),
            **plain,
            **chosen,
        )

    def check(self) -> Experiment:
        """Resolve every choice and look for combinations that cannot work; returns self.

        Raises:
            ConfigError: the first thing that is wrong.
        """
        for group in CHOICES:
            _ = getattr(self, group).config
        from fedkd.combinations import check_combination

        check_combination(self)
        return self

    def flat(self) -> dict[str, Scalar]:
        """Every key with its value, choices with all their options: what goes into config.toml and over the wire."""
        flat: dict[str, Scalar] = dataclasses.asdict(self.core)
        for group in PLAIN:
            flat |= {f"{group}.{key}": value for key, value in dataclasses.asdict(getattr(self, group)).items()}
        for group in CHOICES:
            choice: Choice = getattr(self, group)
            flat[f"{group}.name"] = choice.name
            flat |= {f"{group}.{key}": value for key, value in dataclasses.asdict(choice.config).items()}
        return flat | {f"filter.{key}": value for key, value in dataclasses.asdict(self.selection).items()}

    def path_keys(self) -> list[str]:
        """Flat keys that hold a path: those that a Config names in its class variable `paths`."""
        configs = [*PLAIN.items(), *COMMON.items(), *((group, getattr(self, group).cls.Config) for group in CHOICES)]
        return [f"{group}.{key}" for group, config in configs for key in sorted(getattr(config, "paths", ()))]

    def to_toml(self) -> str:
        """The experiment as TOML, one table per group; `load_flat` reads it back."""
        import tomli_w

        nested: dict[str, Any] = {}
        for flat, value in self.flat().items():
            group, _, key = flat.rpartition(".")
            (nested.setdefault(group, {}) if group else nested)[key] = value
        return tomli_w.dumps(nested)


def load_flat(text: str, *, origin: str) -> dict[str, Scalar]:
    """Flat keys from TOML text; ConfigError where it is no TOML or holds something other than single values."""
    try:
        return flatten(tomllib.loads(text), origin=origin)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{origin} is no valid TOML: {error}; texts need quotes, and a key stands once") from error


def load_file(path: Path) -> dict[str, Scalar]:
    """Flat keys from a TOML file; ConfigError where it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"experiment file {path} cannot be read: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"experiment file {path} is no text: {error}; give a TOML file") from error
    return load_flat(text, origin=f"file {path}")


def flatten(tree: Mapping[str, Any], *, origin: str, prefix: str = "") -> dict[str, Scalar]:
    """Nested tables as flat dotted keys, dashes as underscores; `task = "x"` as `task.name`."""
    flat: dict[str, Scalar] = {}
    for key, value in tree.items():
        name = f"{prefix}{key.replace('-', '_')}"
        if isinstance(value, Mapping):
            flat |= flatten(value, origin=origin, prefix=f"{name}.")
        elif isinstance(value, bool | int | float | str):
            flat[name] = value
        else:
            raise ConfigError(
                f"{name} (from {origin}) is {value!r}, expected one number, text, true or false; correct the value",
                key=name,
            )
    return _in_full(flat)


def merge(layers: Mapping[str, Flat]) -> tuple[dict[str, Scalar], dict[str, str]]:
    """Values and their origins from named layers, the later ones winning.

    Options of a choice are dropped when a later layer picks another entry by `<group>.name`: they belong to the
    earlier entry, which is the default one where no layer named one.
    """
    values: dict[str, Scalar] = {}
    origins: dict[str, str] = {}
    for origin, given in layers.items():
        layer = _in_full(given)
        for group, default in DEFAULT_CHOICES.items():
            before = values.get(f"{group}.name", default)
            if layer.get(f"{group}.name", before) != before:
                shared = shared_keys(group)
                for key in [k for k in values if k.startswith(f"{group}.") and k not in shared]:
                    del values[key], origins[key]
        for key, value in layer.items():
            values[key], origins[key] = value, origin
    return values, origins


def _in_full(flat: Mapping[str, _T]) -> dict[str, _T]:
    """The same keys with short ones written out; where both stand, the full one counts."""
    return {SHORT.get(key, key): value for key, value in flat.items()} | {
        key: flat[key] for key in SHORT.values() if key in flat
    }


def shared_keys(group: str) -> set[str]:
    """Flat keys of a choice group that every entry of it shares."""
    return {f"{group}.{key}" for key in _common_keys(group)}


def _common_keys(group: str) -> tuple[str, ...]:
    """Bare keys of a choice group that every entry of it shares."""
    return tuple(defaults_of(COMMON[group])) if group in COMMON else ()


def _check_core_keys(top: Mapping[str, Scalar], origins: Mapping[str, str]) -> None:
    """ConfigError for a key without a group that there is not, with the nearest key of any group."""
    names = list(defaults_of(CoreConfig))
    for key in top:
        if key not in names:
            grouped = [f"{group}.{name}" for group, kind in PLAIN.items() for name in defaults_of(kind)]
            meant = next((flat for flat in grouped if flat.endswith(f".{key}")), None)
            similar = nearest(key, [*names, *grouped, *(f"{group}.name" for group in CHOICES)])
            similar = f"; did you mean {meant!r}?" if meant else similar
            raise ConfigError(
                f"unknown key {key!r}{origin_of(key, origins)}{similar} Keys without a group: {', '.join(names)}",
                key=key,
            )
