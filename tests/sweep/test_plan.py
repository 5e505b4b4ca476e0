"""From a sweep file to cells, and what is refused before anything runs."""

from pathlib import Path

import pytest

from fedkd.errors import ConfigError, DataError
from fedkd.sweep.plan import Sweep, check_sweep, fingerprint, load_sweep


def sweep(text: str, folder: Path, **overrides: object) -> Sweep:
    path = folder / "small.toml"
    path.write_text(text)
    return load_sweep(path, overrides)


TWO = """
[base]
rounds = 3
schedule.private_steps = 2
[axes]
preset = ["edgefd", "local_only"]
partition = ["strong", { name = "dirichlet", alpha = 0.1 }, { name = "dirichlet", alpha = 1.0, label = "mild" }]
seed = [0, 1]
"""


def test_every_combination_is_a_cell_with_the_seed_last(tmp_path: Path) -> None:
    made = sweep(TWO, tmp_path)
    assert made.axes == ("preset", "partition", "seed")
    assert len(made.cells) == 12
    assert [cell.labels["seed"] for cell in made.cells[:3]] == ["0", "1", "0"]
    assert {cell.labels["partition"] for cell in made.cells} == {"strong", "dirichlet(alpha=0.1)", "mild"}
    cell = made.cells[2]
    assert cell.name == "preset=edgefd,partition=dirichlet(alpha=0.1),seed=0"
    experiment = cell.experiment()
    assert (experiment.partition.name, experiment.partition.config.alpha) == ("dirichlet", 0.1)
    assert (experiment.core.rounds, experiment.core.seed, experiment.schedule.private_steps) == (3, 0, 2)


def test_any_key_is_an_axis_and_overrides_win(tmp_path: Path) -> None:
    made = sweep('[axes]\nmodel.hidden = [8, 16]\n"data.name" = ["digits"]\n', tmp_path, rounds=2, seed=5)
    assert made.axes == ("model.hidden", "data.name", "seed")
    assert [cell.experiment().model.hidden for cell in made.cells] == [8, 16]
    assert {cell.experiment().core.seed for cell in made.cells} == {5}
    assert {cell.experiment().core.rounds for cell in made.cells} == {2}


def test_the_command_line_does_not_move_an_axis(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"partition\.name is given .* as 'iid', but sweep .* varies"):
        sweep(TWO, tmp_path, **{"partition.name": "iid"})


def test_a_wrong_key_of_the_command_line_is_told_as_such(tmp_path: Path) -> None:
    made = sweep(TWO, tmp_path, **{"modl.hidden": 3})
    with pytest.raises(ConfigError, match=r"unknown key 'modl\.hidden' \(from the command line\)"):
        made.cells[0].experiment()


def test_a_base_may_be_an_experiment_file(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text("rounds = 7\n")
    made = sweep(f'[base]\nexperiment = "{tmp_path}/base.toml"\n[axes]\nseed = [1, 2]\n', tmp_path)
    assert [cell.experiment().core.rounds for cell in made.cells] == [7, 7]


def test_methods_and_whole_experiments_are_axes(tmp_path: Path) -> None:
    methods = sweep('base.experiment = "methods/wad"\n[axes]\nmethod = ["wad", "soft_targets"]\n', tmp_path)
    assert [cell.experiment().method.name for cell in methods.cells] == ["wad", "soft_targets"]
    made = sweep('[axes]\nexperiment = ["methods/wad", "methods/bpkd"]\n', tmp_path)
    assert [cell.experiment().task.name for cell in made.cells] == ["classification", "segmentation"]


def test_the_fingerprint_is_of_what_moves_numbers(tmp_path: Path) -> None:
    first, second = sweep("[axes]\nseed = [0, 1]\n", tmp_path).cells
    assert fingerprint(first.experiment()) != fingerprint(second.experiment())
    assert fingerprint(first.experiment(), without=("seed",)) == fingerprint(second.experiment(), without=("seed",))
    assert fingerprint(first.experiment({"engine.workers": 2, "data.root": "/else"})) == fingerprint(first.experiment())
    assert fingerprint(first.experiment({"rounds": 9})) != fingerprint(first.experiment())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[axis]\nseed = [0]\n", "table or key 'axis'; did you mean 'axes'"),
        ("[axes]\nseed = 3\n", "axis 'seed' is 3, expected a list"),
        ("[axes]\nseed = []\n", r"axis 'seed' is \[\], expected a list"),
        ("[axes]\nseed = [[1]]\n", r"axis 'seed' holds \[1\]"),
        ("[axes]\nseed = [0, 0]\n", "two cells are called 'seed=0'"),
        ("[axes\n", "no valid TOML"),
        ("[sweep]\ntitel = 'x'\n[axes]\nseed = [0]\n", r"\[sweep\] has a key 'titel'; did you mean 'title'"),
    ],
)
def test_what_is_no_sweep_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        sweep(text, tmp_path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_sweep(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("axes", "kind", "said"),
    [
        ('preset = ["edgefd", "edgefed"]', ConfigError, r"cell preset=edgefed,seed=0: .*edgefed.*Presets"),
        (
            'partition = ["iid", "strong"]\nnum_clients = [20]',
            (ConfigError, DataError),
            "cell partition=strong,num_clients=20,seed=0: ",
        ),
        (
            '"codec.name" = ["int8"]\n"method.payload" = ["hard"]',
            ConfigError,
            r"cell codec\.name=int8,method\.payload=hard,seed=0: scheme 'mean' combines",
        ),
        (
            'preset = ["fd"]\n"model.name" = ["mlp,cnn"]',
            (ConfigError, DataError),
            r"cell preset=fd,model\.name=mlp,cnn,seed=0: model\.name names a cnn",
        ),
        (
            '"codec.name" = ["int8"]\n"method.payload" = ["hard"]\n"scheme.name" = ["selective_fd"]',
            ConfigError,
            r"seed=0: codec 'int8' carries .*, but method 'soft_targets' shares hard; choose another codec",
        ),
        (
            '"method.name" = ["tests.doubles:Features"]\n"model.name" = ["mlp", "mlp,resnet8"]',
            ConfigError,
            r"model\.name=mlp,resnet8,seed=0: .*equal width.*width 128, but those of model 'resnet8' have width",
        ),
    ],
)
def test_a_cell_that_cannot_run_is_named_before_anything_runs(
    tmp_path: Path, axes: str, kind: type[Exception], said: str
) -> None:
    made = sweep(f"[axes]\n{axes}\nseed = [0, 1]\n", tmp_path)
    with pytest.raises(kind, match=said):
        check_sweep(made)
