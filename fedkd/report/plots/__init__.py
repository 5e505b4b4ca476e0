"""The plots of a run, one small file each: history in, figure and its numbers out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from fedkd.experiment import load_file
from fedkd.extras import need
from fedkd.files import cannot_write, write_atomic
from fedkd.report.events import History
from fedkd.report.folder import RunFolder
from fedkd.report.plots import acceptance, accuracy, confusion, scores, skew, teacher, traffic
from fedkd.report.plots.canvas import Plot, Skipped, look, to_csv, to_svg

Draw: TypeAlias = Callable[[History, Mapping[str, Any]], Plot | Skipped]

PLOTS: Sequence[Draw] = (  # in the order of the report
    accuracy.draw,
    confusion.draw_recall,
    confusion.draw_confusion,
    teacher.draw,
    acceptance.draw,
    scores.draw,
    traffic.draw,
    skew.draw,
)


def draw_plots(history: History, config: Mapping[str, Any]) -> tuple[list[Plot], list[Skipped]]:
    """Every plot that `history` has the numbers for, and the others with the reason."""
    need("matplotlib", extra="viz", what="plotting")
    with look():
        drawn = [draw(history, config) for draw in PLOTS]
    return [d for d in drawn if isinstance(d, Plot)], [d for d in drawn if isinstance(d, Skipped)]


def write_plots(folder: RunFolder) -> tuple[list[Plot], list[Skipped]]:
    """Write plots/<name>.svg and plots/<name>.csv of every plot; returns what was drawn and what was not.

    Raises:
        DataError: the folder has no events.
    """
    plots, skipped = draw_plots(History.read(folder.metrics_jsonl), load_file(folder.config_toml))
    try:
        folder.plots.mkdir(exist_ok=True)
    except OSError as error:
        raise cannot_write(folder.plots, error) from error
    for plot in plots:
        write_atomic(folder.plots / f"{plot.name}.svg", to_svg(plot.figure).encode())
        write_atomic(folder.plots / f"{plot.name}.csv", to_csv(plot.rows).encode())
    return plots, skipped
