import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedkd.errors import ConfigError
from fedkd.experiment import CHOICES, COMMON, DEFAULT_CHOICES, Experiment, load_file, load_flat, merge
from fedkd.lookup import resolve
from fedkd.methods.soft_targets import SoftTargets, SoftTargetsConfig
from fedkd.tasks.classification import ClassificationConfig
from fedkd.types import Flat


def refused(values: Flat, origins: dict[str, str] | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        Experiment.build(values, origins).check()
    return caught.value


def test_the_defaults_go_together() -> None:
    experiment = Experiment.build({}).check()
    assert {group: getattr(experiment, group).name for group in CHOICES} == DEFAULT_CHOICES
    assert isinstance(experiment.task.config, ClassificationConfig)


def test_keys_reach_their_configs() -> None:
    experiment = Experiment.build(
        {"rounds": 3.0, "method.temperature": 2, "schedule.lr": 1, "filter.holdout": 0.3, "filter.quantile": 0.5}
    )
    assert experiment.core.rounds == 3
    assert experiment.method.config == SoftTargetsConfig(temperature=2.0)
    assert experiment.schedule.lr == 1.0
    assert experiment.selection.holdout == 0.3
    assert experiment.filter.config.quantile == 0.5


def test_dashes_are_underscores() -> None:
    experiment = Experiment.build({"num-clients": 4, "schedule.private-steps": 7})
    assert (experiment.core.num_clients, experiment.schedule.private_steps) == (4, 7)


@pytest.mark.parametrize(
    ("key", "similar"),
    [
        ("rouns", "rounds"),
        ("num_client", "num_clients"),
        ("shedule.lr", "schedule.lr"),
        ("methd.order", "method.order"),
        ("schedule.private_step", "private_steps"),
        ("method.temprature", "temperature"),
        ("filter.holdot", "holdout"),
        ("filter.own_sample_stag", "own_sample_stage"),
        ("filter.quantil", "quantile"),
        ("codec.nam", "name"),
        ("tsk.name", "task.name"),
        ("filter.kmeans.quantile", "filter.quantile"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_right_name(key: str, similar: str) -> None:
    error = refused({key: 1}, {key: "file x.toml"})
    assert str(error).startswith(f"unknown key '{key}' (from file x.toml)")
    assert f"; did you mean '{similar}'?" in str(error)
    assert error.key == key


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("rounds", 0, "rounds (from file x.toml) is 0, expected at least 1"),
        ("seed", "x", "seed (from file x.toml) is 'x', expected a whole number"),
        ("device", "gpu", "device (from file x.toml) is 'gpu', expected one of auto, cpu, cuda"),
        ("task.name", True, "task.name (from file x.toml) is True, expected a text"),
        ("schedule.lr", -1, "schedule.lr (from file x.toml) is -1.0, expected greater than 0"),
        ("filter.holdout", 1, "filter.holdout (from file x.toml) is 1.0, expected greater than 0 and less than 1"),
        ("method.order", "jiont", "method.order (from file x.toml) is 'jiont', expected one of"),
        ("method.name", "soft_target", "method.name (from file x.toml) is 'soft_target', which is no method here"),
        ("downlink.name", "float8", "downlink.name (from file x.toml) is 'float8', which is no downlink here"),
    ],
)
def test_a_wrong_value_names_key_origin_and_what_was_expected(key: str, value: Any, words: str) -> None:
    error = refused({key: value}, {key: "file x.toml"})
    assert str(error).startswith(words)
    assert error.key == key


def test_an_unknown_choice_suggests_the_nearest() -> None:
    assert "did you mean 'soft_targets'?" in str(refused({"method.name": "soft_target"}))
    assert "did you mean 'classification'?" in str(refused({"task": "clasification"}))
    error = refused({"task": "clasification"}, {"task": "file x.toml"})
    assert str(error).startswith("task.name (from file x.toml) is 'clasification'")
    assert error.key == "task.name"


def test_a_task_is_a_choice_with_options() -> None:
    experiment = Experiment.build({"task.name": "segmentation", "task.stride": 2})
    assert experiment.task.config.stride == 2
    assert experiment.flat()["task.stride"] == 2
    assert load_flat(experiment.to_toml(), origin="x") == experiment.flat()
    assert "task.stride is 0, expected at least 1" in str(refused({"task.name": "segmentation", "task.stride": 0}))


def test_the_old_bare_key_names_the_task() -> None:
    assert Experiment.build({"task": "segmentation"}).task.name == "segmentation"
    assert load_flat("task = 'language'", origin="x") == {"task.name": "language"}
    assert load_flat("task.name = 'language'", origin="x") == {"task.name": "language"}
    layers: dict[str, Flat] = {"file": {"task.name": "segmentation", "task.stride": 2}, "line": {"task": "language"}}
    assert merge(layers) == ({"task.name": "language"}, {"task.name": "line"})


CHANGED: Flat = {
    "seed": 5,
    "num_clients": 3,
    "device": "cpu",
    "method.name": "ema_views",
    "method.decay": 0.5,
    "filter.own_sample_stage": False,
    "filter.k_per_class": 2,
    "codec.name": "float16",
    "data.root": 'a "quoted"\npath',
    "proxy.keep_private": True,
    "schedule.lr": 1e-5,
}


@pytest.mark.parametrize("values", [{}, CHANGED])
def test_flat_keys_build_the_same_experiment(values: Flat) -> None:
    first = Experiment.build(values)
    again = Experiment.build(first.flat())
    assert again.flat() == first.flat()
    assert {key: first.flat()[key] for key in values} == values
    assert all(getattr(again, group).config == getattr(first, group).config for group in CHOICES)


@pytest.mark.parametrize("values", [{}, CHANGED])
def test_toml_builds_the_same_experiment(values: Flat) -> None:
    first = Experiment.build(values)
    assert load_flat(first.to_toml(), origin="x") == first.flat()


def test_an_experiment_that_is_only_built_needs_no_torch() -> None:
    code = "import sys; from fedkd.experiment import Experiment; Experiment.build({}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False"]


def test_a_class_from_outside_joins_by_its_path() -> None:
    experiment = Experiment.build(
        {"method.name": "fedkd.methods.soft_targets:SoftTargets", "method.temperature": 3.0}
    ).check()
    assert isinstance(experiment.method.create(), SoftTargets)
    assert experiment.method.config.temperature == 3.0
    assert Experiment.build(experiment.flat()).method.cls is SoftTargets


def test_something_from_outside_that_is_no_choice_is_refused() -> None:
    error = refused({"codec.name": "json:JSONDecoder"}, {"codec.name": "file x.toml"})
    assert str(error).startswith("codec.name (from file x.toml) is 'json:JSONDecoder', which has no dataclass `Config`")


def test_no_option_of_an_entry_hides_behind_a_shared_key() -> None:
    for group, table in CHOICES.items():
        shared = {"name", *(f.name for f in dataclasses.fields(COMMON[group]))} if group in COMMON else {"name"}
        for name in table:
            config = resolve(table, name, what=group).Config
            assert not shared & {f.name for f in dataclasses.fields(config)}, (group, name)


def test_later_layers_win_and_say_where_they_come_from() -> None:
    values, origins = merge({"a": {"rounds": 1, "seed": 2}, "b": {"rounds": 3}})
    assert values == {"rounds": 3, "seed": 2}
    assert origins == {"rounds": "b", "seed": "a"}


def test_another_entry_drops_the_options_of_the_earlier_one() -> None:
    first: Flat = {"filter.name": "kmeans", "filter.quantile": 0.5, "filter.holdout": 0.3, "method.order": "joint"}
    values, origins = merge({"preset": first, "file": {"filter.name": "accept_all"}})
    assert values == {"filter.name": "accept_all", "filter.holdout": 0.3, "method.order": "joint"}
    assert origins == {"filter.name": "file", "filter.holdout": "preset", "method.order": "preset"}
    Experiment.build(values).check()


def test_naming_the_same_entry_again_drops_nothing() -> None:
    values, _ = merge({"a": {"filter.name": "kmeans", "filter.quantile": 0.5}, "b": {"filter.name": "kmeans"}})
    assert values == {"filter.name": "kmeans", "filter.quantile": 0.5}


def test_options_given_without_a_name_belong_to_the_default_entry() -> None:
    layers = {"a": {"filter.quantile": 0.5}, "b": {"filter.name": "accept_all"}}
    assert merge(layers)[0] == {"filter.name": "accept_all"}
    layers = {"a": {"filter.quantile": 0.5}, "b": {"filter.name": "kmeans"}}
    assert merge(layers)[0] == {"filter.quantile": 0.5, "filter.name": "kmeans"}


def test_options_come_with_their_own_name_in_one_layer() -> None:
    values, _ = merge({"a": {"method.name": "fd"}, "b": {"method.decay": 0.5, "method.name": "ema_views"}})
    assert values == {"method.name": "ema_views", "method.decay": 0.5}


def test_nested_tables_become_flat_keys() -> None:
    text = 'rounds = 2\nnum-clients = 3\n[method]\nname = "fd"\nkd-weight = 0.5\n'
    assert load_flat(text, origin="x") == {"rounds": 2, "num_clients": 3, "method.name": "fd", "method.kd_weight": 0.5}
    assert load_flat("method.name = 'fd'", origin="x") == {"method.name": "fd"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rounds = ", "file x is no valid TOML"),
        ("rounds = 1\nrounds = 2", "file x is no valid TOML"),
        ("order = joint", "texts need quotes"),
        ("rounds = [1, 2]", r"rounds \(from file x\) is \[1, 2\], expected one number, text"),
        ("[method]\nwhen = 2020-01-01", r"method.when \(from file x\)"),
    ],
)
def test_text_that_is_no_experiment_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_flat(text, origin="file x")


def test_a_file_is_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text('data.root = "Größe"', encoding="utf-8")
    assert load_file(path) == {"data.root": "Größe"}
    with pytest.raises(ConfigError, match="cannot be read: No such file or directory; check the path"):
        load_file(tmp_path / "y.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_file(tmp_path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is no text"):
        load_file(path)
