import csv
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest

from fedkd import metric_names as m
from fedkd.report.events import History
from fedkd.report.plots import draw_plots, write_plots
from fedkd.report.plots.canvas import Plot, Skipped, look, matrix, to_csv, to_svg

NAMES = [
    "accuracy",
    "recall_by_class",
    "confusion",
    "teacher",
    "acceptance_by_class",
    "filter_scores",
    "bytes",
    "partition",
]


def rows_of(folder, name):
    with (folder.plots / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def drawn(events, **config):
    plots, _ = draw_plots(History(events), {"rounds": 1, **config})
    return {plot.name: plot for plot in plots}


def test_every_plot_is_written_as_svg_and_csv(run_folder):
    plots, skipped = write_plots(run_folder)
    assert [plot.name for plot in plots] == NAMES
    assert skipped == []
    assert sorted(p.name for p in run_folder.plots.iterdir()) == sorted(
        f"{n}.{e}" for n in NAMES for e in ("svg", "csv")
    )
    for name in NAMES:
        assert ElementTree.parse(run_folder.plots / f"{name}.svg").getroot().tag.endswith("svg")
        assert rows_of(run_folder, name)


def test_absent_numbers_skip_the_plot_with_a_reason(make_run):
    folder = make_run(done=2, drop=("filter/", "partition/"))
    plots, skipped = write_plots(folder)
    assert [plot.name for plot in plots] == ["accuracy", "teacher", "bytes"]
    assert [s.name for s in skipped] == [
        "recall_by_class",
        "confusion",
        "acceptance_by_class",
        "filter_scores",
        "partition",
    ]
    assert all(s.reason.startswith("no ") for s in skipped)


def test_nothing_recorded_draws_nothing():
    plots, skipped = draw_plots(History([]), {})
    assert plots == []
    assert [s.name for s in skipped] == NAMES


def test_svg_is_the_same_each_time(make_run):
    first, second = make_run("a"), make_run("b")
    write_plots(first)
    write_plots(second)
    for name in NAMES:
        assert (first.plots / f"{name}.svg").read_bytes() == (second.plots / f"{name}.svg").read_bytes()


def test_own_settings_neither_leak_out_nor_in(make_run):
    folder = make_run()
    write_plots(folder)
    plain = (folder.plots / "accuracy.svg").read_bytes()
    with matplotlib.rc_context({"font.size": 33, "axes.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        write_plots(folder)
        assert dict(matplotlib.rcParams) == before
    assert (folder.plots / "accuracy.svg").read_bytes() == plain


@pytest.mark.parametrize(("clients", "classes"), [(2, 2), (41, 3), (300, 10), (1000, 10), (3, 120)])
def test_any_number_of_clients_and_classes(make_run, clients, classes):
    folder = make_run(clients=clients, classes=classes, rounds=2)
    plots, skipped = write_plots(folder)
    assert len(plots) == len(NAMES)
    assert skipped == []
    assert len(rows_of(folder, "recall_by_class")) == clients * classes
    axes = next(p for p in plots if p.name == "recall_by_class").figure.axes[0]
    labels = [label for label in axes.get_xticks() if 0 <= label < clients]
    assert len(labels) == (clients if clients <= 40 else len(labels))
    assert len(labels) <= 40


def test_accuracy_rows_are_mean_and_spread_over_clients():
    per_client = [0.25, None, 0.75]
    plot = drawn([{"round_id": 0, m.ACC_MEAN: 0.4, m.ACC_PER_CLIENT: per_client, m.SERVER_ACC: 0.9}])["accuracy"]
    assert plot.rows == [
        {"round_id": 0, "mean": 0.4, "sd": 0.25, "min": 0.25, "max": 0.75, "clients": 2, "server": 0.9}
    ]


def test_score_stands_in_where_there_is_no_accuracy():
    plot = drawn([{"round_id": 0, m.SCORE_MEAN: 20.0, m.SCORE_PER_CLIENT: [10.0, 30.0]}])["accuracy"]
    assert plot.title == "Score by round"
    named = {"round_id": 0, m.SCORE_NAME: "miou", m.SCORE_MEAN: 0.5, m.SCORE_PER_CLIENT: [0.5, 0.5]}
    assert drawn([named])["accuracy"].title == "Miou by round"


def test_round_without_any_answer_is_an_empty_row():
    events = [{"round_id": i, m.ACC_PER_CLIENT: [v, v]} for i, v in enumerate((0.5, None))]
    assert drawn(events)["accuracy"].rows[1]["sd"] is None


def test_recall_and_confusion_by_hand():
    confusion = [[[3, 1], [0, 4]], [[1, 3], [0, 0]], None]
    plots = drawn([{"round_id": 1, m.CONFUSION: confusion}])
    recall = [row["recall"] for row in plots["recall_by_class"].rows]
    assert recall == [0.75, 1.0, 0.25, None, None, None]
    assert [row["share"] for row in plots["confusion"].rows] == [0.5, 0.5, 0.0, 1.0]
    assert plots["confusion"].title.endswith("at the end")
    early = drawn([{"round_id": 1, m.CONFUSION: confusion}], rounds=9)
    assert early["confusion"].title.endswith("after round 2")


def test_failed_clients_stay_in_place_in_the_filter_plots():
    events = [
        {
            "round_id": -1,
            m.ACCEPT_BY_CLASS: [[None, None], [0.5, None]],
            m.CLASS_COUNTS: [[3, 0], [0, 4]],
            m.SCORE_BINS: [0.0, 0.5, 1.0],
            m.SCORE_HOLDOUT: [None, [0, 4]],
            m.SCORE_PROXY: [None, [6, 0]],
            m.THRESHOLD: [None, 0.5],
        }
    ]
    plots = drawn(events)
    accepted = plots["acceptance_by_class"].rows
    assert [(r["client"], r["class"], r["accept_rate"], r["is_own"]) for r in accepted] == [
        (0, 0, None, 1), (0, 1, None, 0), (1, 0, 0.5, 0), (1, 1, None, 1),
    ]  # fmt: skip
    assert plots["filter_scores"].rows == [
        {"client": 1, "from": 0.0, "to": 0.5, "holdout": 0, "proxy": 6, "threshold": 0.5},
        {"client": 1, "from": 0.5, "to": 1.0, "holdout": 4, "proxy": 0, "threshold": 0.5},
    ]


def test_setup_bytes_are_not_in_the_bytes_plot(run_folder):
    write_plots(run_folder)
    assert [row["round_id"] for row in rows_of(run_folder, "bytes")] == [str(i) for i in range(7)]


def test_matrix_fills_in_for_clients_that_failed():
    np.testing.assert_array_equal(matrix([None, [1, None]]), [[np.nan, np.nan], [1, np.nan]])
    assert matrix([0.5, None]).shape == (2,)


def test_csv_of_nothing_and_of_none():
    assert to_csv([]) == "\n"
    assert to_csv([{"a": None, "b": "x,y"}]) == 'a,b\n,"x,y"\n'


def test_svg_names_no_date_and_no_program(run_folder):
    plots, _ = write_plots(run_folder)
    svg = to_svg(plots[0].figure)
    assert "<metadata" not in svg
    assert "created with" not in svg.lower()


def test_draws_return_one_of_two_things():
    with look():
        from fedkd.report.plots import PLOTS

        assert all(isinstance(draw(History([]), {}), Plot | Skipped) for draw in PLOTS)
