import json

import pytest

from fedkd.errors import ConfigError, DataError
from fedkd.report.cells import CELLS
from fedkd.report.compare.grid import blocks_of, make_grid, read_grid
from fedkd.report.compare.note import SweepNote


def test_the_note_survives_its_file(tmp_path):
    published = [
        {"method": "a", "value": 0.5, "sd": 0.1, "source": "S, table 1", "note": "n", "figure": "acc_mean_best"}
    ]
    note = SweepNote.of_plan(
        "A – title",
        [{"method": m, "partition": "x", "seed": s} for m in "ba" for s in "10"],
        published=published,
        command="fedkd sweep f.toml",
    )
    path = note.write(tmp_path)
    assert path.name == "sweep.json"
    found = SweepNote.read(tmp_path)
    assert found is not None
    assert (found.title, found.command) == ("A – title", "fedkd sweep f.toml")
    assert list(found.axes.items()) == [("method", ("b", "a")), ("partition", ("x",)), ("seed", ("1", "0"))]
    assert [each.flat() for each in found.published] == published


def test_no_note_and_a_broken_one(tmp_path):
    assert SweepNote.read(tmp_path) is None
    for text in ("[]", "{}", '{"schema": 9}', "no json", '{"schema": 1, "title": "", "axes": [], "published": []}'):
        (tmp_path / "sweep.json").write_text(text)
        with pytest.raises(DataError, match=r"sweep\.json"):
            SweepNote.read(tmp_path)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"value": 0.5}, "needs a number `value` and a `source`"),
        ({"value": "0.5", "source": "S"}, "needs a number `value`"),
        ({"value": 0.5, "source": "S", "methd": "a"}, "'methd'.*method"),
        ({"value": 0.5, "source": "S", "sd": "x"}, "`sd`"),
    ],
)
def test_malformed_published_figures_are_refused(entry, told):
    with pytest.raises(ConfigError, match=told):
        SweepNote.of_plan("t", [{"method": "a", "seed": "0"}], published=[entry])


def test_rows_columns_and_seeds_keep_the_order_of_the_plan(sweep_folder):
    grid = read_grid(sweep_folder)
    assert grid.rows == ("edgefd", "fd", "local_only")
    assert grid.columns == (("strong",), ("iid",))
    assert grid.seeds == ("0", "1", "2")
    assert (grid.missing, grid.problems) == ((), ())
    assert len(grid.all_done) == 18


def test_a_folder_without_a_note_orders_by_name_with_the_method_first(make_sweep, tmp_path):
    folder = make_sweep({"alpha": ("b", "a"), "method": ("d", "c"), "seed": ("10", "9")})
    (folder / "sweep.json").unlink()
    grid = read_grid(folder)
    assert (grid.row_axis, grid.column_axes) == ("method", ("alpha",))
    assert (grid.rows, grid.columns, grid.seeds) == (("c", "d"), (("a",), ("b",)), ("9", "10"))
    assert grid.note.title == folder.name


def test_what_cannot_be_read_or_does_not_belong_is_listed(sweep_folder, bare_cell):
    (sweep_folder / CELLS / "broken.json").write_text("{")
    bare_cell({"method": "edgefd", "seed": "0"}, 0.5).write(sweep_folder / CELLS / "other.json")
    grid = read_grid(sweep_folder)
    assert [problem.where for problem in grid.problems] == ["method=edgefd, seed=0", "broken.json"]
    assert "its axes are method, seed" in grid.problems[0].error
    assert len(grid.all_done) == 18


def test_an_old_schema_is_listed_too(sweep_folder):
    path = next((sweep_folder / CELLS).iterdir())
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 0}))
    grid = read_grid(sweep_folder)
    assert len(grid.problems) == len(grid.missing) == 1


def test_cells_beyond_the_plan_are_kept(sweep_folder, bare_cell):
    labels = {"method": "new", "partition": "iid", "seed": "7"}
    grid = make_grid(
        [bare_cell(labels, 0.5)], SweepNote(title="t", axes={"method": ("a",), "partition": (), "seed": ()})
    )
    assert (grid.rows, grid.columns, grid.seeds) == (("a", "new"), (("iid",),), ("7",))
    assert grid.missing == ()


def test_nothing_but_seeds(bare_cell):
    grid = make_grid([bare_cell({"seed": s}, 0.5) for s in "01"], SweepNote(title="t", axes={"seed": ("0", "1")}))
    assert (grid.row_axis, grid.rows, grid.columns) == ("", ("all",), ((),))
    assert len(grid.done("all", ())) == 2


def test_bare_numbers_name_their_axis_in_heads(bare_cell):
    note = SweepNote(title="t", axes={"method": ("m",), "model.hidden": ("64",), "data": ("u",), "x": ("True",)})
    assert make_grid([], note).title(("64", "u", "True")) == "hidden=64 · u · x=True"


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no cells/\*\.json"):
        read_grid(tmp_path)


def test_many_columns_are_blocks_of_the_first_axis(bare_cell):
    cells = [
        bare_cell({"method": "m", "data": d, "partition": p, "seed": "0"}, 0.5) for d in "ab" for p in ("u", "v", "w")
    ]
    note = SweepNote(
        title="t", axes={"method": ("m",), "data": ("a", "b"), "partition": ("u", "v", "w"), "seed": ("0",)}
    )
    blocks = blocks_of(make_grid(cells, note))
    assert [(block.title, len(block.columns), block.shared) for block in blocks] == [("a", 3, 1), ("b", 3, 1)]
    wide = SweepNote(title="t", axes={"method": ("m",), "partition": tuple("abcdefg"), "seed": ("0",)})
    assert [(block.title, len(block.columns)) for block in blocks_of(make_grid([], wide))] == [("", 5), ("", 2)]
