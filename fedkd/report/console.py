"""What a person sees while a run goes on, and the table at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, final

import fedkd.metric_names as m
from fedkd.federation.emitter import SETUP_ROUND
from fedkd.report.events import ROUND_ID
from fedkd.report.folder import RunFolder
from fedkd.report.units import MISSING, format_bytes, format_figure, format_seconds, format_share, name_of_metric

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


@final
class Progress:
    """One live line while stderr is a terminal, one plain line per round where it is piped.

    Call it with the events, for example as a listener of `Events`; the live line needs a `with` around the run, else
    the lines are plain. A round's line comes with its `seconds/round`, or with the first event of another round, so
    emit a round's numbers before its clock readings.
    """

    def __init__(self, rounds: int, *, console: Console | None = None) -> None:
        from rich.console import Console as RichConsole

        self._rounds = rounds
        self._console = console or RichConsole(stderr=True)
        self._values: dict[str, Any] = {}
        self._round_id: int | None = None
        self._accepted: float | None = None
        self._told: set[int] = set()
        self._live: Any = None

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Take in one event."""
        round_id = int(event[ROUND_ID])
        if round_id != self._round_id:
            self._tell()
            self._round_id, self._values = round_id, {}
        self._values.update(event)
        self._accepted = event.get(m.ACCEPT_RATE, self._accepted)  # input-space filters are fitted once, in the set-up
        if m.SECONDS_ROUND in event:
            self._tell()

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live = _live_line(self._console)
            self._live.add_task("set-up", total=self._rounds + 1, figures="")
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tell()
        if self._live:
            self._live.stop()
            self._live = None

    def _tell(self) -> None:
        if self._round_id is None or self._round_id in self._told or len(self._values) < 2:
            return
        self._told.add(self._round_id)
        title, figures = self._title(self._round_id), self._figures()
        if self._live:
            self._live.update(self._live.task_ids[0], description=title, completed=self._round_id + 1, figures=figures)
        else:
            self._console.file.write(f"{title}  {figures}".rstrip() + "\n")
            self._console.file.flush()

    def _title(self, round_id: int) -> str:
        if round_id == SETUP_ROUND:
            return "set-up"
        return "closing" if round_id >= self._rounds else f"round {round_id + 1}/{self._rounds}"

    def _figures(self) -> str:
        values = self._values
        parts = [
            _named("acc", values.get(m.ACC_MEAN), format_figure),
            _named(
                values.get(m.SCORE_NAME, "score"),
                values.get(m.SCORE_MEAN) if values.get(m.ACC_MEAN) is None else None,
                format_figure,
            ),
            _named("up", values.get(m.UPLINK_BYTES, values.get(m.SETUP_UPLINK_BYTES)), format_bytes),
            _named("accepted", self._accepted, format_share),
            _named("failed", values.get(m.FAILURES) or None, str),
            _named("rejected", values.get(m.REJECTED) or None, str),
            _named("", values.get(m.SECONDS_ROUND), format_seconds),
        ]
        return "  ".join(part for part in parts if part)


def summary_table(summaries: Sequence[Mapping[str, Any]]) -> Table:
    """One row per run; accuracy where there is one, else the run's own metric, whose name then stands in the row."""
    from rich import box
    from rich.table import Table as RichTable

    table = RichTable(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    is_short = all(len(str(summary["partition"])) <= len("partition") for summary in summaries)
    for name in ("preset", "data", "partition"):  # what wraps where 80 columns are too few
        table.add_column(name, overflow="fold", no_wrap=name == "partition" and is_short)
    for name in ("clients", "rounds", "final", "best", "sd", "up", "down", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for summary in summaries:
        has_acc = summary["acc_mean_final"] is not None or summary["metric_mean_final"] is None
        final, best = ("acc_mean_final", "acc_mean_best") if has_acc else ("metric_mean_final", "metric_mean_best")
        table.add_row(
            *(_text(summary[key]) for key in ("preset", "dataset", "partition", "num_clients", "rounds")),
            format_figure(summary[final]),
            format_figure(summary[best]),
            format_figure(summary["metric_std_clients_final"]),
            format_bytes(summary["upload_bytes"]),
            format_bytes(summary["download_bytes"]),
            format_seconds(summary["seconds_total"]),
        )
    names = sorted({_metric(summary) for summary in summaries})
    what = " or ".join(names) or "score"
    table.caption = f"final, best: mean {what} of all clients; sd: over clients, at the end"
    table.caption_justify = "left"
    return table


def print_summary(summary: Mapping[str, Any], folder: RunFolder, *, console: Console | None = None) -> None:
    """Print one run's table and where its files lie; no colours where the output is piped."""
    from rich.console import Console as RichConsole

    console = console or RichConsole()
    console.print(summary_table([summary]))
    if summary["skew"]:
        js, emd = summary["skew"]["js_divergence"], summary["skew"]["label_emd"]
        console.file.write(f"skew:   Jensen-Shannon divergence {js:.3f} between clients, label distance {emd:.3f}\n")
    for name, path in (("run", folder.path), ("report", folder.report_html)):
        if path.exists():  # printed past rich: it would break long paths and colour parts of them
            console.file.write(f"{name + ':':8}{path}\n")
    console.file.flush()


def _live_line(console: Console) -> Any:
    from rich import progress

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(bar_width=10),
        progress.TextColumn("{task.fields[figures]}", markup=False),
        progress.TimeRemainingColumn(compact=True),
        console=console,
    )


def _named(name: str, value: Any, form: Any) -> str:
    return "" if value is None else f"{name} {form(value)}".lstrip()


def _text(value: object) -> str:
    return MISSING if value is None else str(value).replace("[", r"\[")


def _metric(summary: Mapping[str, Any]) -> str:
    return "accuracy" if summary["acc_mean_final"] is not None else name_of_metric(summary["metric_name"])
