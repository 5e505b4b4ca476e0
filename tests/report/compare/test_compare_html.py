import csv
import io
import re
from html.parser import HTMLParser

from rich.console import Console

from fedkd.report.compare import write_comparison
from fedkd.report.compare.console import print_comparison
from fedkd.report.compare.grid import read_grid
from fedkd.report.compare.table import make_tables
from fedkd.report.plots.canvas import GRID, INK, MUTED, PALETTE
from fedkd.report.template import COLORS, CSS

VOID = {"meta", "br", "wbr", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Checks nesting while it reads; keeps ids, references and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.refs, self.text = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        for key, value in attrs:
            if key == "id":
                self.ids.append(value)
            if key in ("href", "xlink:href", "src", "aria-labelledby"):
                self.refs.append(value)
            self.refs += re.findall(r"url\(([^)]*)\)", value or "")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_whole_and_loads_nothing(compared):
    page = (compared / "comparison.html").read_text()
    parsed = Page(page)
    text = " ".join(" ".join(parsed.text).split())
    for words in (
        "Methods <compared> & more",
        "1 failed, 1 missing",
        "Published beside ours",
        "Smith <2020>",
        "published 0.500",
        "model.name = 'x_y' <unknown>",
        "not measured yet: seed 2",
        "fedkd sweep simulations/compared.toml",
        "A Processor (x86_64, 2 cores)",
    ):
        assert words in text
    assert "http" not in page
    assert "<script" not in page
    assert "@import" not in page
    assert len(parsed.ids) == len(set(parsed.ids))
    for ref in parsed.refs:
        assert ref.startswith("data:image/png;base64,") or ref.removeprefix("#") in parsed.ids
    body = page[page.index("<body>") :]
    for color in (INK, MUTED, GRID, *PALETTE):
        assert color not in body

    names = re.findall(r"<code>plots/(\w+)\.csv</code>", page)
    assert len(names) == page.count("<svg") == 8
    for name in names:
        rows = list(csv.DictReader(io.StringIO((compared / "plots" / f"{name}.csv").read_text())))
        assert rows
        assert (compared / "plots" / f"{name}.svg").read_text().startswith("<?xml")


def test_every_colour_has_a_value_in_both_themes():
    for name in COLORS:
        assert len(re.findall(rf"--{name}: #[0-9a-f]{{6}}", CSS)) == 2
    assert len(COLORS) == len(PALETTE)


def test_all_files_are_there_and_the_same_each_time(make_sweep):
    folder = make_sweep({"method": ("a", "b"), "seed": ("0",)})
    names = ("cells.csv", "comparison.md", "comparison.tex", "comparison.json", "comparison.html")
    assert write_comparison(folder) == folder / "comparison.html"
    first = {name: (folder / name).read_bytes() for name in names}
    assert all(first.values())
    write_comparison(folder)
    assert {name: (folder / name).read_bytes() for name in names} == first


def test_a_sweep_without_any_figures_has_a_page(make_sweep):
    axes = {"method": ("a",), "seed": ("0", "1")}
    page = write_comparison(make_sweep(axes, fail=(0,), drop=(1,))).read_text()
    Page(page)
    assert "Not drawn" in page
    assert page.count("<svg") == 0


def test_the_console_shows_table_failures_and_page(compared):
    out = io.StringIO()
    table = make_tables(read_grid(compared))[0]
    print_comparison(table, compared / "comparison.html", console=Console(file=out, width=100))
    lines = out.getvalue().splitlines()
    assert lines[0].split() == ["method", "strong", "iid"]
    edgefd, fd = table.entries["edgefd", ("strong",)], table.entries["fd", ("strong",)]
    assert edgefd.is_best
    assert f"{edgefd.mean:.3f} ± {edgefd.sd:.3f} *" in lines[2]
    assert f"{fd.mean:.3f} ± {fd.sd:.3f}" in lines[3]
    assert "no figures: method=edgefd, partition=iid, seed=1: ConfigError: model.name = 'x_y' <unknown>" in lines
    assert lines[-1] == f"comparison: {compared / 'comparison.html'}"


def test_a_narrow_console_gets_blocks(compared):
    out = io.StringIO()
    print_comparison(make_tables(read_grid(compared))[0], console=Console(file=out, width=30))
    assert [line.split() for line in out.getvalue().splitlines() if line.startswith("method")] == [
        ["method", "strong"],
        ["method", "iid"],
    ]
