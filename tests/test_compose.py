"""From what a person gives to an experiment."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from fedkd.compose import RUN_KEYS, SIMULATIONS, compose, find_experiment, from_run_config, parse_overrides
from fedkd.errors import ConfigError
from fedkd.experiment import Experiment
from fedkd.presets import PRESETS
from fedkd.types import Scalar


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


# The merge order: defaults < preset < experiment < overrides.


def test_nothing_given_is_the_default_experiment() -> None:
    flat = compose().flat()
    assert (flat["preset"], flat["method.name"], flat["filter.name"], flat["rounds"]) == (
        "edgefd",
        "soft_targets",
        "kmeans",
        30,
    )


def test_the_file_wins_over_its_preset_and_overrides_over_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.toml", 'preset = "fd"\nrounds = 7\nseed = 1\n[method]\nname = "fd"\n')
    flat = compose(experiment=file, overrides={"here": {"seed": 2}, "there": {"seed": 3}}).flat()
    assert (flat["preset"], flat["scheme.name"], flat["rounds"], flat["seed"]) == ("fd", "fd", 7, 3)


def test_a_preset_among_the_overrides_wins_over_the_file_s(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.toml", 'preset = "fd"\nrounds = 7\n')
    flat = compose(experiment=file, overrides={"here": {"preset": "dsfl"}}).flat()
    assert (flat["preset"], flat["scheme.name"], flat["rounds"]) == ("dsfl", "dsfl", 7)


def test_picking_another_entry_drops_the_options_of_the_one_before() -> None:
    # The preset sets an option of soft_targets that fd does not know: kept, it would be an error.
    flat = compose(overrides={"here": {"method.name": "fd"}}).flat()
    assert compose().flat()["method.order"] == "joint"
    assert "method.order" not in flat


def test_what_is_built_is_read_back_from_its_own_toml() -> None:
    experiment = compose(overrides={"here": {"preset": "edgefd_views", "rounds": 3}})
    nested = tomllib.loads(experiment.to_toml())
    assert nested["rounds"] == 3
    assert Experiment.build(experiment.flat()).flat() == experiment.flat()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"round": 5}, r"unknown key 'round' \(from here\); did you mean 'rounds'\?"),
        ({"method.temprature": 2.0}, r"unknown key 'method.temprature' \(from here\); did you mean 'temperature'\?"),
        ({"metod.name": "fd"}, r"unknown key 'metod.name'.*did you mean 'method"),
        ({"preset": "edgfd"}, r"preset is 'edgfd'; did you mean 'edgefd'\?"),
        ({"method.name": "soft_target"}, r"method.name \(from here\) is 'soft_target'.*did you mean 'soft_targets'\?"),
        ({"rounds": 0}, r"rounds \(from here\)"),
        ({"rounds": "many"}, r"rounds \(from here\) is 'many', expected a whole number"),
    ],
)
def test_what_is_wrong_is_named_with_its_origin(overrides: dict[str, Scalar], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        compose(overrides={"here": overrides}).check()


# Paths.


@dataclass(frozen=True, kw_only=True)
class ReadingConfig:
    paths: ClassVar[frozenset[str]] = frozenset({"prompts"})
    prompts: str = ""


class Reading:
    """A method from outside that reads a file; it is never made."""

    Config = ReadingConfig


@pytest.mark.parametrize(
    "key", ["data.root", "proxy.root", "filter.checkpoint", "model.weights", "teacher.weights", "method.prompts"]
)
def test_paths_are_taken_from_the_folder_this_runs_in(key: str) -> None:
    own: dict[str, Scalar] = {"method.name": "tests.test_compose:Reading"}
    if key == "filter.checkpoint":
        own |= {"filter.features": "checkpoint", "filter.feature_model": "resnet18"}
    given = {"here": {**own, key: "some/file.safetensors"}}
    assert compose(overrides=given).flat()[key] == str(Path("some/file.safetensors").absolute())
    with pytest.raises(
        ConfigError, match=rf"{key} \(from here\) is 'some/file.safetensors', expected an absolute path"
    ):
        compose(overrides=given, may_be_relative=False)


def test_a_name_on_the_hub_is_no_path() -> None:
    given = {"teacher.weights": "someone/something", "teacher.download": True}
    assert compose(overrides={"here": given}, may_be_relative=False).teacher.weights == "someone/something"
    Path("someone").mkdir()
    Path("someone/something").touch()
    assert compose(overrides={"here": given}).teacher.weights == str(Path("someone/something").absolute())
    root = compose(overrides={"here": {"data.root": "nowhere", "data.download": True}}).data.root
    assert root == str(Path("nowhere").absolute())


# Experiment files.


def test_an_experiment_is_a_path_or_the_name_of_one_here(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.toml", "rounds = 1\n")
    assert find_experiment(path) == Path(path).resolve()
    (tmp_path / "simulations").mkdir()
    write(tmp_path / "simulations" / "other.toml", "rounds = 2\n")
    assert find_experiment("other") == (tmp_path / "simulations" / "other.toml").resolve()


def test_every_experiment_of_the_checkout_can_be_built(repo_root: Path) -> None:
    names = [path.stem for path in (repo_root / "simulations").glob("*.toml")]
    assert names
    for name in names:
        compose(experiment=name).check()


def test_no_such_experiment_lists_those_that_are(repo_root: Path) -> None:
    with pytest.raises(ConfigError, match=r"'edgefd_digit' is neither a file nor.*did you mean 'edgefd_digits'\?"):
        compose(experiment="edgefd_digit")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rounds = five", "is no valid TOML"),
        ("rounds = [1, 2]", r"rounds \(from .*\) is \[1, 2\], expected one number"),
        ("rounds = 1\nrounds = 2", "a key stands once"),
    ],
)
def test_a_file_that_cannot_be_understood_says_why(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        compose(experiment=write(tmp_path / "bad.toml", text))


# Overrides of the command line.


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ("rounds=5", {"rounds": 5}),
        ("method.temperature=2.5", {"method.temperature": 2.5}),
        ("proxy.keep-private=true", {"proxy.keep_private": True}),
        ("preset=fd", {"preset": "fd"}),
        ('preset="fd"', {"preset": "fd"}),
        (" preset = fd ", {"preset": "fd"}),
        ("model.name=mlp,cnn", {"model.name": "mlp,cnn"}),
        ("data.root=/a=b", {"data.root": "/a=b"}),
        ("method.name=outside:Class", {"method.name": "outside:Class"}),
        ("data.root=", {"data.root": ""}),
        ("rounds=[1]", {"rounds": "[1]"}),
        ("x=2026-01-01", {"x": "2026-01-01"}),
    ],
)
def test_pairs_take_bare_words(pair: str, expected: dict[str, Scalar]) -> None:
    found = parse_overrides([pair])
    assert found == expected
    assert [type(value) for value in found.values()] == [type(value) for value in expected.values()]


@pytest.mark.parametrize("pair", ["rounds", "=5", " = 5"])
def test_what_is_no_pair_is_refused(pair: str) -> None:
    with pytest.raises(ConfigError, match=r"is no key=value pair; write for example -c rounds=5"):
        parse_overrides([pair])


# Flower's run config.


def run_config(repo_root: Path) -> dict[str, Scalar]:
    """What Flower hands over where nobody overrides anything: the keys of pyproject.toml, flattened."""
    config = tomllib.loads((repo_root / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    flat: dict[str, Scalar] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": one for inner, one in value.items()}
        else:
            flat[key] = value
    return flat


def test_the_run_config_as_it_is_means_the_defaults(repo_root: Path) -> None:
    assert from_run_config(run_config(repo_root)).flat() == compose().flat()


def test_every_key_of_the_run_config_reaches_the_experiment(repo_root: Path) -> None:
    config = run_config(repo_root)
    assert set(config) >= RUN_KEYS
    given: dict[str, Scalar] = {
        "seed": 0,
        "rounds": 4,
        "num-clients": 5,
        "clients-per-node": 2,
        "data.root": "/srv",
        "overrides": 'method.temperature = 2.0\n[codec]\nname = "float16"\n',
    }
    flat = from_run_config({**config, **given}).flat()
    assert {key: flat[key] for key in ("seed", "rounds", "num_clients", "clients_per_node", "data.root")} == {
        "seed": 0,
        "rounds": 4,
        "num_clients": 5,
        "clients_per_node": 2,
        "data.root": "/srv",
    }
    assert (flat["method.temperature"], flat["codec.name"]) == (2.0, "float16")
    for key in set(config) - RUN_KEYS:
        flat_key = key.replace("-", "_")
        assert flat_key in flat, f"{key} of pyproject.toml is no key of the experiment"


def test_overrides_win_over_the_other_keys_and_name_themselves(repo_root: Path) -> None:
    config = run_config(repo_root) | {"rounds": 4}
    assert from_run_config(config | {"overrides": "rounds = 6"}).flat()["rounds"] == 6
    with pytest.raises(ConfigError, match=r"unknown key 'round' \(from overrides\)"):
        from_run_config(config | {"overrides": "round = 6"})


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = compose(overrides={"the command line": {"data.name": "mnist", "data.root": "somewhere"}})
    assert made.data.root == str(tmp_path / "somewhere")


def test_flowers_processes_are_given_no_relative_path() -> None:
    with pytest.raises(ConfigError, match=r"data\.root .from the run config. is 'somewhere', expected an absolute"):
        from_run_config({"data.name": "mnist", "data.root": "somewhere"})


def test_options_of_another_presets_filter_do_not_come_along(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('preset = "edgefd"\nrounds = 3\n[filter]\nquantile = 0.5\nholdout = 0.3\n')
    kept = compose(experiment=str(path))
    assert kept.filter.config.quantile == 0.5
    other = compose(experiment=str(path), overrides={"the command line": {"preset": "local_only"}})
    assert other.filter.name == "accept_all"
    assert other.selection.holdout == 0.3  # shared by all filters, so it stays
    assert other.core.rounds == 3
    assert other.check() is other


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("path", sorted(SIMULATIONS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_preset_goes_with_every_experiment_file(path: Path, preset: str) -> None:
    compose(experiment=str(path), overrides={"the command line": {"preset": preset, "data.root": "/data"}}).check()


def test_a_bare_key_is_told_its_group() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'lr'.*did you mean 'schedule\.lr'\?"):
        compose(overrides={"the command line": {"lr": 0.1}})


def test_only_the_documented_number_stands_for_as_the_preset_says() -> None:
    assert from_run_config({"seed": -1, "rounds": -1}).core.rounds == 30
    with pytest.raises(ConfigError, match="seed"):
        from_run_config({"seed": -7})
