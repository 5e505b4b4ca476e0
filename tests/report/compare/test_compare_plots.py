import pytest

from fedkd.report.compare.grid import make_grid, read_grid
from fedkd.report.compare.note import SweepNote
from fedkd.report.compare.plots import PLOTS, draw_plots
from fedkd.report.compare.plots.against_bytes import Point, front_of, round_bytes
from fedkd.report.compare.plots.panels import View, legend_columns
from fedkd.report.compare.table import make_table
from fedkd.report.plots.canvas import PALETTE, line_style

NAMES = [
    "score_map",
    "score_by_round",
    "score_against_upload",
    "score_against_skew",
    "spread_over_clients",
    "filters",
    "confusions",
    "seconds_by_phase",
]


def view_of(grid):
    return View(grid=grid, table=make_table(grid))


@pytest.fixture(scope="module")
def plots(compared):
    drawn, skipped = draw_plots(view_of(read_grid(compared)))
    assert skipped == []
    return {plot.name: plot for plot in drawn}


def test_every_plot_is_drawn_with_its_numbers(plots):
    assert list(plots) == NAMES
    assert len(PLOTS) == len(NAMES)
    for plot in plots.values():
        assert plot.rows
        assert all(list(row) == list(plot.rows[0]) for row in plot.rows)
        assert {"method", "partition"} <= set(plot.rows[0])


def test_without_figures_nothing_is_drawn(bare_cell):
    note = SweepNote.of_plan("t", [{"method": "a", "seed": "0"}])
    drawn, skipped = draw_plots(view_of(make_grid([bare_cell({"method": "a", "seed": "0"})], note)))
    assert drawn == []
    assert [each.name for each in skipped] == NAMES
    assert all(each.reason for each in skipped)


def test_scores_alone_are_a_map_alone(bare_cell):
    labels = [{"method": name, "partition": "x", "seed": "0"} for name in "ab"]
    cells = [bare_cell(labels[0], 0.5), bare_cell(labels[1], 0.7)]
    drawn, skipped = draw_plots(view_of(make_grid(cells, SweepNote.of_plan("t", labels))))
    assert [plot.name for plot in drawn] == ["score_map"]
    assert drawn[0].rows == [
        {"method": "a", "partition": "x", "mean": 0.5},
        {"method": "b", "partition": "x", "mean": 0.7},
    ]
    assert len(skipped) == len(NAMES) - 1


def test_lines_by_round_by_hand(bare_cell):
    from dataclasses import replace

    labels = [{"method": "a", "seed": seed} for seed in "01"]
    cells = [
        replace(bare_cell(label, 0.5), series={"score/mean": [[0, value], [1, 0.5]][: 2 - int(label["seed"])]})
        for label, value in zip(labels, (0.2, 0.4), strict=True)
    ]
    drawn, _ = draw_plots(view_of(make_grid(cells, SweepNote.of_plan("t", labels))))
    rows = next(plot for plot in drawn if plot.name == "score_by_round").rows
    assert [(row["round_id"], row["seeds"]) for row in rows] == [(0, 2), (1, 1)]
    assert rows[0]["mean"] == pytest.approx(0.3)
    assert rows[0]["sd"] == pytest.approx(0.02**0.5)
    assert rows[1]["sd"] is None


def test_the_front_is_what_none_beats():
    points = [Point(name, sent, score, None, 1) for name, sent, score in (
        ("dear", 9.0, 0.8), ("free", 0.0, 0.3), ("good", 4.0, 0.8), ("weak", 5.0, 0.7), ("same", 4.0, 0.6)
    )]  # fmt: skip
    assert [p.row for p in front_of(points, higher_is_better=True)] == ["free", "good"]
    assert [p.row for p in front_of(points[:1] + points[3:], higher_is_better=False)] == ["same"]


def test_what_uploads_nothing_is_not_on_the_front(bare_cell):
    labels = [{"method": name, "seed": "0"} for name in ("sends", "ceiling")]
    cells = [bare_cell(labels[0], 0.8, upload_bytes=1000), bare_cell(labels[1], 0.9, upload_bytes=0)]
    drawn, _ = draw_plots(view_of(make_grid(cells, SweepNote.of_plan("t", labels))))
    rows = next(plot for plot in drawn if plot.name == "score_against_upload").rows
    assert {row["method"]: row["is_on_front"] for row in rows} == {"ceiling": 0, "sends": 1}


def test_ticks_of_bytes_are_round_and_few():
    assert round_bytes(900, 2500, most=4) == [1000, 2000]
    assert round_bytes(9e4, 4e5, most=4) == [1e5, 2e5]
    assert round_bytes(9e4, 4e6, most=4) == [1e5, 3e5, 1e6, 3e6]
    assert round_bytes(500, 2e9, most=4) == [1e3, 1e5, 1e7, 1e9]


def test_confusions_are_sums_over_seeds_by_row(bare_cell):
    from dataclasses import replace

    labels = [{"method": "a", "seed": seed} for seed in "01"]
    tables = ([[1, 0], [0, 0]], [[1, 2], [0, 0]])
    cells = [replace(bare_cell(label, 0.5), confusion=table) for label, table in zip(labels, tables, strict=True)]
    drawn, _ = draw_plots(view_of(make_grid(cells, SweepNote.of_plan("t", labels))))
    rows = next(plot for plot in drawn if plot.name == "confusions").rows
    assert [row["share"] for row in rows] == [0.5, 0.5, None, None]


def test_phases_add_up(plots):
    for row in plots["seconds_by_phase"].rows:
        parts = (row[key] for key in ("seconds_train", "seconds_filter", "seconds_aggregate", "rest"))
        assert sum(parts) == pytest.approx(row["seconds_total"])


def test_skew_has_a_line_per_method_and_a_panel_per_data_set(make_sweep):
    axes = {"method": ("a", "b"), "data": ("u", "v"), "partition": ("strong", "iid"), "seed": ("0",)}
    drawn, _ = draw_plots(view_of(read_grid(make_sweep(axes))))
    plot = next(plot for plot in drawn if plot.name == "score_against_skew")
    assert [axes.get_title(loc="left") for axes in plot.figure.axes] == ["u", "v"]
    assert len(plot.rows) == 8
    assert [row["js_divergence"] for row in plot.rows[:4]] == [0.01, 0.01, 1.0, 1.0]


def test_many_columns_are_capped_with_a_word_and_whole_in_the_csv(make_sweep):
    axes = {"method": ("a",), "partition": tuple("abcdefgh"), "seed": ("0",)}
    drawn, skipped = draw_plots(view_of(read_grid(make_sweep(axes))))
    assert [each.reason for each in skipped] == ["all settings have the same skew"]
    plot = next(plot for plot in drawn if plot.name == "filters")
    assert len(plot.figure.axes) == 6
    assert plot.caption.endswith("Shown: the first 6 of 8 columns; the CSV has them all.")
    assert len({row["partition"] for row in plot.rows}) == 8


def test_fourteen_lines_differ():
    styles = [line_style(number) for number in range(14)]
    assert len(set(styles)) == 14
    assert len({(style.line, style.marker) for style in styles}) == 14
    assert {style.color for style in styles} == set(PALETTE)
    assert line_style(100)


def test_legends_are_as_wide_as_the_page():
    assert legend_columns(["a", "b", "c"]) == 3
    assert legend_columns(["m" * 60, "b", "c"]) == 3
    assert legend_columns(["m" * 60, "n" * 60]) == 1
