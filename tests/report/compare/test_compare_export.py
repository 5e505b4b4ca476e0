import csv
import io
import json
import re

import pytest

from fedkd.report.compare.export import to_cells_csv, to_json, to_markdown
from fedkd.report.compare.grid import make_grid, read_grid
from fedkd.report.compare.latex import escape, to_latex
from fedkd.report.compare.note import SweepNote
from fedkd.report.compare.table import make_tables

VALUES = {
    ("a_1", "x"): (0.5, 0.6, 0.7),
    ("b|2", "x"): (0.49, 0.58, 0.67),
    ("c<3>", "x"): (0.3, 0.39, 0.51),
    ("d", "x"): (None,) * 3,
}


@pytest.fixture
def grid(bare_cell):
    labels = [{"method": m, "partition": p, "seed": s} for m, p in VALUES for s in "012"]
    published = [{"method": "b|2", "value": 0.9, "source": "S & T, 100% of table_1", "note": "~10 clients"}]
    note = SweepNote.of_plan("A & B", labels, published=published, command="fedkd sweep a.toml")
    cells = [bare_cell(label, VALUES[label["method"], "x"][int(label["seed"])]) for label in labels]
    return make_grid(cells, note)


def test_markdown_by_hand(grid):
    lines = to_markdown(grid, make_tables(grid)).splitlines()
    assert lines[0] == "# A & B"
    assert lines[4:10] == [
        "| method | x |",
        "| --- | --- |",
        r"| a\_1 | **0.600 ± 0.100** |",
        r"| b\|2 | 0.580 ± 0.090 ≈ |",
        "| c&lt;3> | 0.400 ± 0.105 |",
        "| d | failed |",
    ]
    text = "\n".join(lines)
    assert r"| method=b\|2, partition=x | final accuracy | 0.580 ± 0.090 | 0.900 | −0.320 | S & T, 100% of" in text
    assert "| method=d, partition=x, seed=0 | ConfigError: no such\\_thing |" in text
    assert "| command | fedkd sweep a.toml |" in text
    assert "| cells | 9 measured, 3 failed |" in text
    assert "| commits | 012345678 |" in text


def test_latex_by_hand(grid):
    text = to_latex(make_tables(grid))
    assert r"\caption{A \& B. Final accuracy (higher is better), mean over clients: mean $\pm$ sample" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert rows[:5] == [
        r"method & x \\",
        r"a\_1 & \textbf{0.600 $\pm$ 0.100} \\",
        r"b\textbar{}2 & 0.580 $\pm$ 0.090 $\approx$ \\",
        r"c\textless{}3\textgreater{} & 0.400 $\pm$ 0.105 \\",
        r"d & failed \\",
    ]
    assert text.count(r"\begin{tabular}{lc}") == text.count(r"\toprule") == text.count(r"\end{table}") == 2
    assert text.isascii()


def test_latex_escapes_what_it_would_read():
    assert escape("a_b & 5% of #1 {x} $y ~z ^w \\v\n<u>") == (
        r"a\_b \& 5\% of \#1 \{x\} \$y \textasciitilde{}z \textasciicircum{}w \textbackslash{}v "
        r"\textless{}u\textgreater{}"
    )


def test_latex_of_many_columns_has_a_block_per_label_of_the_first(make_sweep):
    axes = {"method": ("a",), "data": ("u", "v"), "partition": ("x", "y", "z"), "seed": ("0",)}
    text = to_latex(make_tables(read_grid(make_sweep(axes)))[:1])
    assert text.count(r"\begin{tabular}{lccc}") == 2
    assert " & \\multicolumn{3}{c}{u} \\\\\n\\cmidrule(l){2-4}\nmethod & x & y & z \\\\" in text
    assert len(re.findall(r"\\begin\{", text)) == len(re.findall(r"\\end\{", text))


def test_json_holds_the_statistics_unrounded(grid):
    tables = make_tables(grid)
    found = json.loads(to_json(grid, tables))
    assert (found["rows"], found["columns"], found["seeds"]) == (list(grid.rows), [["x"]], ["0", "1", "2"])
    for table, told in zip(tables, found["tables"], strict=True):
        assert told["columns"] == [{"column": ["x"], "metric": "acc", "higher_is_better": True, "remark": ""}]
        for entry, read in zip(table.entries.values(), told["entries"], strict=True):
            assert (read["row"], tuple(read["column"])) == (entry.row, entry.column)
            for key in ("mean", "sd", "n", "values", "p", "p_holm", "is_best", "is_tied"):
                assert read[key] == getattr(entry, key)
    assert found["tables"][0]["entries"][1]["published"][0]["value"] == 0.9
    assert [each["where"] for each in found["without_figures"]] == [f"method=d, partition=x, seed={s}" for s in "012"]
    assert found["repeat"]["hardware"] == "A Processor (x86_64, 2 cores)"


def test_csv_has_a_row_per_cell_and_every_single_value(sweep_folder, bare_cell):
    grid = read_grid(sweep_folder)
    rows = list(csv.DictReader(io.StringIO(to_cells_csv(grid))))
    assert len(rows) == 18
    assert list(rows[0])[:4] == ["label.method", "label.partition", "label.seed", "error"]
    cell = grid.cells["fd", ("iid",), "2"]
    row = next(r for r in rows if (r["label.method"], r["label.partition"], r["label.seed"]) == ("fd", "iid", "2"))
    assert float(row["metric_mean_final"]) == cell.summary["metric_mean_final"]
    assert float(row["skew.js_divergence"]) == 0.01
    assert row["figures/loss"] == "0.5"
    assert row["preset"] == ""
    assert "metric_per_client" not in row


def test_csv_keeps_failed_cells(grid):
    rows = list(csv.DictReader(io.StringIO(to_cells_csv(grid))))
    assert [row["error"] for row in rows if row["label.method"] == "d"] == ["ConfigError: no such_thing"] * 3
