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
from fedkd.report.results import append_result, make_record, read_results
from fedkd.report.summary import client_figures
from fedkd.runner import run

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Measure, print a table, append one record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", help="name of a TOML file in simulations/")
    parser.add_argument("-c", "--config", action="append", default=[], metavar="KEY=VALUE", help="override; repeatable")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--into", default="", help="results file without .json; default: the experiment's own name")
    arguments = parser.parse_args()
    into = arguments.into or arguments.experiment.rpartition("/")[2].removesuffix(".toml")
    results = RESULTS / f"{into}.json"
    read_results(results)  # a file that is broken is told before the first seed, not after the last
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
        into=arguments.into,
    )
    append_result(results, record)

    from rich.console import Console

    Console().print(summary_table(summaries))


if __name__ == "__main__":
    try:
        main()
    except FedKDError as error:
        sys.exit(f"measure: {error}")
