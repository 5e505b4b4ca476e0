"""The comparison of a sweep: tables with tests over seeds, plots, and one page; from a folder of cells alone."""

from fedkd.report.compare.note import Published, SweepNote
from fedkd.report.compare.write import write_comparison

__all__ = ["Published", "SweepNote", "write_comparison"]
