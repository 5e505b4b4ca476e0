"""Run an experiment over several seeds and append the figures to simulations/results/<name>.json.

python simulations/measure.py edgefd_digits -c partition.name=iid --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from fedkd.compose import compose, parse_overrides
from fedkd.errors import FedKDError
from fedkd.report.console import summary_table
from fedkd.report.folder import RunFolder
from fedkd.report.results import append_result, make_record
from fedkd.report.summary import client_figures
from fedkd.runner import run

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Measure, print a table, append one record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", help="name of a TOML file in simulations/")
    parser.add_argument("-c", "--config", action="append", default=[], metavar="KEY=VALUE", help="override; repeatable")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--into", default="", help="results file without .json; default: the experiment's name")
    arguments = parser.parse_args()
    summaries, reported, environment = [], [], {}
    for seed in arguments.seeds:
        overrides = {"the command line": parse_overrides(arguments.config) | {"seed": seed}}
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "run"
            summaries.append(run(compose(experiment=arguments.experiment, overrides=overrides), out))
            reported.append(client_figures(RunFolder.open(out)))
            environment = json.loads(RunFolder.open(out).env_json.read_text())
        print(f"seed {seed}: {summaries[-1]['metric_mean_final']}", file=sys.stderr, flush=True)
    record = make_record(
        experiment=arguments.experiment,
        overrides=arguments.config,
        seeds=arguments.seeds,
        summaries=summaries,
        environment=environment,
        reported=reported,
    )
    append_result(RESULTS / f"{arguments.into or arguments.experiment}.json", record)

    from rich.console import Console

    Console().print(summary_table(summaries))


if __name__ == "__main__":
    try:
        main()
    except FedKDError as error:
        sys.exit(f"measure: {error}")
