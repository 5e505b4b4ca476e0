from dataclasses import replace

import pytest

from fedkd.report.compare.grid import Problem, make_grid
from fedkd.report.compare.note import SweepNote
from fedkd.report.compare.table import ONE_SEED, make_table, make_tables
from fedkd.report.compare.words import beside, detail_of, problems_of, text_of


@pytest.fixture
def make(bare_cell):
    """A table from {(method, partition): values by seed}; "failed" for a failed cell, None for a missing one."""

    def make(values, published=(), figure="metric_mean_final", **summary):
        rows = list(dict.fromkeys(row for row, _ in values))
        columns = list(dict.fromkeys(column for _, column in values))
        seeds = [str(i) for i in range(max(map(len, values.values())))]
        note = SweepNote.of_plan(
            "t",
            [{"method": r, "partition": c, "seed": s} for r in rows for c in columns for s in seeds],
            published=published,
        )
        cells = [
            bare_cell({"method": r, "partition": c, "seed": s}, None if value == "failed" else value, **summary)
            for (r, c), found in values.items()
            for s, value in zip(seeds, found, strict=False)
            if value is not None
        ]
        return make_table(make_grid(cells, note), figure)

    return make


def test_means_and_the_best_by_hand(make):
    table = make({("a", "x"): [0.6, 0.8, 0.7], ("b", "x"): [0.2, 0.2, 0.5], ("a", "y"): [0.1], ("b", "y"): [0.4]})
    first = table.entries["a", ("x",)]
    assert (first.mean, first.sd, first.n) == (pytest.approx(0.7), pytest.approx(0.1), 3)
    assert first.values == {"0": 0.6, "1": 0.8, "2": 0.7}
    assert [key for key, entry in table.entries.items() if entry.is_best] == [("a", ("x",)), ("b", ("y",))]
    assert table.entries["b", ("x",)].sd == pytest.approx(0.03**0.5)
    assert table.title == "final accuracy"


def test_each_is_tested_against_the_best_and_corrected(make):
    # a leads. a - b is 1, 2, 3 hundredths: t = 3.4641, p = 0.0742. a - c is 0.2, 0.21, 0.19: t = 0.2 / (0.01 / sqrt 3)
    # = 34.64, p = 1 - t / sqrt(t^2 + 2) = 0.000832. Holm over two tests: c 0.001665, b 0.0742.
    table = make({("a", "x"): [0.5, 0.6, 0.7], ("b", "x"): [0.49, 0.58, 0.67], ("c", "x"): [0.3, 0.39, 0.51]})
    b, c = table.entries["b", ("x",)], table.entries["c", ("x",)]
    assert b.p == pytest.approx(0.07418, abs=1e-5)
    assert b.p_holm == pytest.approx(0.07418, abs=1e-5)
    assert (b.is_tied, b.is_best) == (True, False)
    t = 0.2 / (0.01 / 3**0.5)
    assert c.p == pytest.approx(1 - t / (t * t + 2) ** 0.5)
    assert c.p_holm == pytest.approx(2 * c.p)
    assert not c.is_tied
    assert table.entries["a", ("x",)].p is None
    assert table.remarks == ()


def test_correction_turns_a_lead_into_a_tie(make):
    # Differences 5, 6, 7: t = 6 / (1 / sqrt 3) = 10.392, p = 0.00913; six such tests: 0.0548.
    values = {("a", "x"): [0.5, 0.6, 0.7]}
    values |= {(name, "x"): [0.45, 0.54, 0.63] for name in "bcdefg"}
    table = make(values)
    assert table.entries["b", ("x",)].p == pytest.approx(1 - 108**0.5 / 110**0.5)
    assert table.entries["b", ("x",)].p_holm == pytest.approx(6 * (1 - 108**0.5 / 110**0.5))
    assert all(table.entries[name, ("x",)].is_tied for name in "bcdefg")
    alone = make(dict(list(values.items())[:2]))
    assert not alone.entries["b", ("x",)].is_tied


def test_equal_means_are_both_the_best(make):
    table = make({("a", "x"): [0.5, 0.7], ("b", "x"): [0.7, 0.5], ("c", "x"): [0.5, 0.5]})
    assert [table.entries[name, ("x",)].is_best for name in "abc"] == [True, True, False]
    assert not table.entries["b", ("x",)].is_tied


def test_constant_differences_give_no_nan(make):
    table = make({("a", "x"): [0.5, 0.7], ("b", "x"): [0.4, 0.6], ("c", "x"): [0.5, 0.5]})
    assert table.entries["b", ("x",)].p == 0.5
    assert table.entries["b", ("x",)].p_holm == 1.0


def test_lower_is_better(make):
    loss = {"metric_name": "loss", "metric_higher_is_better": False}
    table = make({("a", "x"): [0.6, 0.8], ("b", "x"): [0.2, 0.2]}, **loss)
    assert table.entries["b", ("x",)].is_best
    assert table.title == "final loss"
    assert make({("a", "x"): [0.6], ("b", "x"): [0.2]}, figure="acc_mean_best", **loss).entries["a", ("x",)].is_best


def test_one_seed_is_no_test(make):
    table = make({("a", "x"): [0.6], ("b", "x"): [0.5]})
    assert table.remarks == (ONE_SEED,)
    b = table.entries["b", ("x",)]
    assert (b.p, b.is_tied, b.sd) == (None, False, None)
    assert text_of(b, 1) == "0.500"


def test_a_row_without_common_seeds_is_named(make):
    table = make({("a", "x"): [0.6, 0.7, 0.8], ("b", "x"): ["failed", None, 0.5], ("a", "y"): [0.1], ("b", "y"): [0.2]})
    assert table.remarks == (
        "x: no test against the best for b: fewer than two seeds in common",
        f"y: {ONE_SEED}",
    )
    entry = table.entries["b", ("x",)]
    assert (entry.failed, entry.missing, entry.n) == (("0",), ("1",), 1)
    assert text_of(entry, 3) == "0.500 (n=1)"
    assert detail_of(entry) == "seed 2: 0.500; seed 0 failed; seed 1 missing"


def test_failed_and_missing_settings_are_shown_as_such(make):
    table = make({("a", "x"): [0.6, 0.7], ("b", "x"): ["failed", "failed"], ("c", "x"): [None, None]})
    texts = [text_of(table.entries[name, ("x",)], 2) for name in "abc"]
    assert texts == ["0.650 ± 0.071", "failed", "missing"]
    assert problems_of(table.grid) == [
        Problem("method=b, partition=x, seed=0", "ConfigError: no such_thing"),
        Problem("method=b, partition=x, seed=1", "ConfigError: no such_thing"),
        Problem("method=c, partition=x", "not measured yet: seed 0, 1"),
    ]


def test_nothing_but_failures(make):
    table = make({("a", "x"): ["failed"]})
    assert not table.entries["a", ("x",)].is_best
    assert table.title == "final score"
    assert table.remarks == ()


def test_a_cell_without_the_figure_is_a_dash(make):
    table = make({("a", "x"): [0.5]}, figure="coverage")
    assert text_of(table.entries["a", ("x",)], 1) == "–"


def test_different_metrics_have_no_best(bare_cell):
    note = SweepNote.of_plan("t", [{"method": name, "seed": "0"} for name in "ab"])
    cells = [
        bare_cell({"method": "a", "seed": "0"}, 0.5),
        bare_cell({"method": "b", "seed": "0"}, 0.6, metric_name="miou"),
    ]
    table = make_table(make_grid(cells, note))
    assert not any(entry.is_best for entry in table.entries.values())
    assert table.remarks == ("cells of one column have different metrics, so it has no best",)


def test_published_figures_stand_where_their_labels_fit(make):
    published = [
        {"method": "a", "partition": "x", "value": 0.9, "source": "S", "note": "more clients"},
        {"method": "b", "value": 0.1, "sd": 0.02, "source": "T"},
        {"method": "b", "value": 0.3, "source": "U", "figure": "acc_mean_best"},
    ]
    values = {("a", "x"): [0.6, 0.7], ("b", "x"): [0.5, 0.5], ("a", "y"): [0.6], ("b", "y"): ["failed"]}
    found = beside([make(values, published), make(values, published, figure="acc_mean_best")])
    assert [(b.setting, b.published, b.difference) for b in found] == [
        ("method=a, partition=x", "0.900", "−0.250"),
        ("method=b, partition=x", "0.100 ± 0.020", "+0.400"),
        ("method=b, partition=y", "0.100 ± 0.020", "–"),
        ("method=b, partition=x", "0.300", "+0.200"),
        ("method=b, partition=y", "0.300", "–"),
    ]
    assert (found[0].source, found[0].note, found[0].ours) == ("S", "more clients", "0.650 ± 0.071")


def test_the_second_table_is_the_best_round(bare_cell):
    note = SweepNote.of_plan("t", [{"method": "a", "seed": "0"}])
    cell = bare_cell({"method": "a", "seed": "0"}, 0.5)
    assert [table.figure for table in make_tables(make_grid([cell], note))] == ["metric_mean_final", "acc_mean_best"]
    scored = replace(cell, summary={**cell.summary, "acc_mean_best": None, "metric_mean_best": 0.6})
    assert [t.figure for t in make_tables(make_grid([scored], note))] == ["metric_mean_final", "metric_mean_best"]
