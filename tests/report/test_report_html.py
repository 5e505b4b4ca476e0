import re
from html.parser import HTMLParser

import pytest

import fedkd.extras
from fedkd.errors import DataError, MissingExtraError
from fedkd.report.html import write_report
from fedkd.report.plots.canvas import GRID, INK, MUTED, SERIES
from fedkd.report.summary import write_summary

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Checks nesting while it reads; keeps ids, references, tags and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.refs, self.tags, self.text, self.labels = [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        for key, value in attrs:
            if key == "id":
                self.ids.append(value)
            if key in ("href", "xlink:href", "src", "aria-labelledby"):
                self.refs.append((tag, value))
            if tag == "svg" and key == "aria-label":
                self.labels.append(value)
            self.refs += [(tag, ref) for ref in re.findall(r"url\(([^)]*)\)", value or "")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def page(run_folder):
    write_summary(run_folder, engine="local", metric_name="acc", higher_is_better=True)
    return write_report(run_folder).read_text()


def test_report_parses_and_is_complete(page):
    parsed = Page(page)
    assert page.startswith("<!DOCTYPE html>")
    assert '<html lang="en">' in page
    assert parsed.tags.count("h1") == 1
    assert parsed.tags.count("svg") == parsed.tags.count("figure") == parsed.tags.count("figcaption") == 8
    assert len([label for label in parsed.labels if label]) == 8
    text = " ".join(" ".join(parsed.text).split())
    for words in (
        "Headline",
        "Plots",
        "Clients",
        "Configuration",
        "Environment",
        "Final accuracy, mean",
        "Upload, share of an unselected one 25%",
        "temperature = 4.0",
    ):
        assert words in text


def test_ids_are_unique_and_every_reference_is_inside_the_page(page):
    parsed = Page(page)
    assert len(parsed.ids) == len(set(parsed.ids))
    for tag, ref in parsed.refs:
        assert ref.startswith("data:image/png;base64,") if tag == "image" else ref.removeprefix("#") in parsed.ids, (
            tag,
            ref,
        )


def test_nothing_is_loaded_from_elsewhere(page):
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page
    assert "@import" not in page


def test_plots_take_the_colours_of_the_theme(page):
    body = page[page.index("<body>") :]
    for color in (INK, MUTED, GRID, *SERIES):
        assert color not in body
    assert "prefers-color-scheme: dark" in page
    assert "var(--ink)" in body


def test_values_are_escaped(page):
    assert "digits &lt;of&gt; 8x8" in page
    assert "<of>" not in page


def test_report_is_the_same_each_time(run_folder):
    first = write_report(run_folder).read_bytes()
    assert write_report(run_folder).read_bytes() == first


def test_report_without_filter_numbers(make_run):
    folder = make_run(drop=("filter/",))
    page = write_report(folder).read_text()
    Page(page)
    assert "no filter scores were recorded" in page
    assert "has not reached" not in page


def test_report_of_a_run_that_was_cut_short(make_run):
    folder = make_run(done=3)
    with folder.metrics_jsonl.open("ab") as file:
        file.write(b'{"round_id": 3, "acc/me')
    folder.env_json.unlink()
    page = write_report(folder).read_text()
    Page(page)
    assert "has not reached its closing evaluation" in page
    assert "no readable <code>env.json</code>" in page
    assert "accuracy, round 3" in page


def test_report_of_a_run_that_only_has_a_config(make_run):
    folder = make_run()
    folder.metrics_jsonl.write_text("")
    folder.timings_jsonl.write_text("")
    page = write_report(folder).read_text()
    assert "No figures of single clients were recorded" in page
    folder.metrics_jsonl.unlink()
    with pytest.raises(DataError, match=r"metrics\.jsonl cannot be read"):
        write_report(folder)


def test_many_clients_are_folded_away(make_run):
    page = write_report(make_run(clients=41, rounds=1)).read_text()
    Page(page)
    assert "Show all 41 clients" in page


def test_missing_extra_is_a_kind_refusal(run_folder, monkeypatch):
    def gone(name, *args):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(fedkd.extras.importlib, "import_module", gone)
    with pytest.raises(MissingExtraError, match=r"the HTML report needs 'jinja2'.*fedkd\[viz\]"):
        write_report(run_folder)
