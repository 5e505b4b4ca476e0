import io

import pytest
from rich.console import Console

from fedkd import metric_names as m
from fedkd.report.console import Progress, print_summary, summary_table
from fedkd.report.summary import summarise


def piped(width=80):
    return Console(file=io.StringIO(), width=width, force_terminal=False)


def summary_of(folder, **options):
    return summarise(folder, **{"engine": "local", "metric_name": "acc", "higher_is_better": True, **options})


def told(events, *, rounds=30):
    console = piped()
    with Progress(rounds, console=console) as progress:
        for event in events:
            progress(event)
    return console.file.getvalue().splitlines()


def test_piped_lines_of_a_whole_run(make_run):
    console = piped()
    with Progress(2, console=console) as progress:
        make_run(rounds=2, listeners=[progress])
    lines = console.file.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == ["set-up", "round 1/2", "round 2/2", "closing"]
    assert "\x1b" not in console.file.getvalue()
    assert all(len(line) <= 80 for line in lines)


def test_line_of_a_round():
    setup = {"round_id": -1, m.ACCEPT_RATE: 0.31}
    numbers = {"round_id": 2, m.ACC_MEAN: 0.8421, m.UPLINK_BYTES: 12_340, m.REJECTED: 0, m.FAILURES: 0}
    clock = {"round_id": 2, m.SECONDS_ROUND: 2.06}
    assert told([setup, numbers, clock]) == [
        "set-up  accepted 31%",
        "round 3/30  acc 0.842  up 12.3 kB  accepted 31%  2.1 s",
    ]


def test_trouble_and_other_scores_are_told():
    event = {"round_id": 0, m.SCORE_MEAN: 0.5, m.FAILURES: 2, m.REJECTED: 1}
    assert told([event]) == ["round 1/30  score 0.500  failed 2  rejected 1"]
    assert told([{**event, m.SCORE_NAME: "miou"}]) == ["round 1/30  miou 0.500  failed 2  rejected 1"]


def test_a_round_without_clock_is_told_when_the_next_comes_and_none_twice():
    events = [{"round_id": i, m.ACC_MEAN: 0.5} for i in (0, 1)]
    late = {"round_id": 1, m.SECONDS_ROUND: 1.0}
    assert told([*events, late, {**late, "round_id": 1}]) == ["round 1/30  acc 0.500", "round 2/30  acc 0.500  1.0 s"]


def test_without_a_with_the_lines_are_plain_on_a_terminal_too():
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    progress = Progress(3, console=console)
    for event in ({"round_id": 0, m.ACC_MEAN: 0.75}, {"round_id": 0, m.SECONDS_ROUND: 1.0}):
        progress(event)
    assert console.file.getvalue() == "round 1/3  acc 0.750  1.0 s\n"


def test_terminal_has_one_live_line():
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    with Progress(3, console=console) as progress:
        for round_id in range(-1, 4):
            progress({"round_id": round_id, m.ACC_MEAN: 0.75, m.UPLINK_BYTES: 999_999, m.ACCEPT_RATE: 1.0})
            progress({"round_id": round_id, m.SECONDS_ROUND: 1.0})
    text = console.file.getvalue()
    assert "closing" in text
    assert "acc 0.750" in text
    assert text.count("\n") <= 2


@pytest.mark.parametrize("width", [80, 120])
def test_table_fits_and_shows_everything(run_folder, width):
    console = piped(width)
    wide = {"preset": "selective_fd", "partition": "dirichlet", "num_clients": 1000, "upload_bytes": 12_300_000}
    console.print(summary_table([summary_of(run_folder), {**summary_of(run_folder), **wide}]))
    text = console.file.getvalue()
    assert all(len(line) <= width for line in text.splitlines())
    assert "…" not in text
    for words in (
        "preset",
        "partition",
        "clients",
        "1000",
        "12.3 MB",
        "dirichlet",
        "time",
        "mean accuracy of all clients",
    ):
        assert words in text
    assert "\x1b" not in text


def test_missing_figures_and_markup_are_shown_as_they_are(make_run):
    console = piped(120)
    summary = {**summary_of(make_run(done=0)), "preset": "[bold]x"}
    console.print(summary_table([summary]))
    assert "[bold]x" in console.file.getvalue()
    assert "–" in console.file.getvalue()


def test_other_metrics_are_named(make_run):
    console = piped()
    folder = make_run(drop=("acc/",))
    console.print(summary_table([summary_of(folder, metric_name="miou")]))
    assert "mean miou" in console.file.getvalue()


def test_empty_table_is_no_error():
    piped().print(summary_table([]))


def test_print_summary_names_the_files_that_are_there(run_folder):
    console = piped(40)
    print_summary(summary_of(run_folder), run_folder, console=console)
    text = console.file.getvalue()
    assert f"run:    {run_folder.path}\n" in text
    assert "report:" not in text
    run_folder.report_html.write_text("")
    print_summary(summary_of(run_folder), run_folder, console=console)
    assert f"report: {run_folder.report_html}\n" in console.file.getvalue()


def test_print_summary_tells_how_unlike_the_clients_are(run_folder):
    console = piped()
    summary = summary_of(run_folder) | {"skew": {"js_divergence": 0.88894, "label_emd": 1.6}}
    print_summary(summary, run_folder, console=console)
    assert "skew:   Jensen-Shannon divergence 0.889 between clients, label distance 1.600\n" in console.file.getvalue()
    console = piped()
    print_summary(summary | {"skew": None}, run_folder, console=console)
    assert "skew" not in console.file.getvalue()
