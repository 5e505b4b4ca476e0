"""What a round costs with 10 to 10,000 clients, on each engine; and what Flower adds to it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from fedkd import metric_names as m
from fedkd.bench.processes import watch
from fedkd.bench.record import record_of
from fedkd.errors import FedKDError
from fedkd.federation.emitter import SETUP_ROUND
from fedkd.types import Scalar

EXPERIMENT = Path("simulations") / "benchmarks" / "scale.toml"
CLIENTS, MANY = (10, 100, 1000), 10_000
PLAIN_CLIENTS = (10, 100)
REFERENCE = 100  # clients, that the cost per client of more is compared with
ALLOWED_S, ALLOWED_SHARE = 0.3, 0.1  # what Flower may add to a round of the local engine


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way to run the experiment.

    `cohort`: clients of a Flower node and of a message; 1 is Flower's own way, 0 deals them evenly over the workers.
    """

    engine: str
    clients: int
    workers: int = 1
    cohort: int = 0

    @property
    def name(self) -> str:
        """As the table has it."""
        return f"{self.engine}{f', {self.cohort} a node' if self.cohort else ''}"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Medians over the repeats.

    Attributes:
        round_s: a round after the first, median over them.
        client_ms: of it, for each client.
        overhead_s: of it, what the clients do not spend, shared out over the workers.
        first_round_s: the first one, which imports and builds.
        before_s: from the start of the command to the end of the set-up.
        after_s: from the end of the closing message to the exit.
        uplink_bytes, downlink_bytes: payload of such a round.
        peak_pss_bytes: of all processes together.
    """

    engine: str
    cohort: int
    clients: int
    workers: int
    round_s: float
    client_ms: float
    overhead_s: float
    first_round_s: float
    before_s: float
    after_s: float
    uplink_bytes: int
    downlink_bytes: int
    header_bytes: int
    peak_pss_bytes: int
    peak_processes: int


def cases(
    *, clients: Sequence[int], plain: Sequence[int], cohorts: Sequence[int], full: bool, flower: bool
) -> list[Case]:
    """Everything that is measured: the local engine with one worker, and both with two."""
    found = [Case(engine="local", clients=number) for number in (*clients, *((MANY,) if full else ()))]
    for number in clients if flower else ():
        found += [Case(engine=engine, clients=number, workers=2) for engine in ("local", "flower")]
    found += [Case(engine="flower", clients=number, workers=2, cohort=1) for number in plain]
    return found + [Case(engine="flower", clients=REFERENCE, workers=2, cohort=size) for size in cohorts]


def measure(
    *,
    repeats: int,
    rounds: int,
    clients: Sequence[int] = CLIENTS,
    plain: Sequence[int] = (),
    cohorts: Sequence[int] = (),
    full: bool = False,
    flower: bool = True,
    keys: dict[str, Scalar] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Everything that the table shows. Repeats are interleaved, so that a busy machine slows all alike.

    Raises:
        FedKDError: a run failed, or this is no checkout.
    """
    experiment = Path(__file__).resolve().parents[2] / EXPERIMENT
    if not experiment.exists():
        raise FedKDError(f"{experiment} is missing; run this benchmark in a checkout")
    wanted = cases(clients=clients, plain=plain, cohorts=cohorts, full=full, flower=flower)
    found: dict[Case, list[dict[str, float]]] = {case: [] for case in wanted}
    for repeat in range(repeats):
        for case in wanted:
            say(f"{repeat + 1}/{repeats}: {case.clients} clients, {case.name}, {case.workers} workers")
            found[case].append(run_once(case, experiment, rounds=rounds, keys=keys or {}))
    measured = [_medians(case, ran) for case, ran in found.items()]
    options = [*(f"--clients {number}" for number in clients if tuple(clients) != CLIENTS)]
    options += [f"--cohort {size}" for size in cohorts]
    options += ["--full"] * full + ["--plain"] * bool(plain) + ["--no-flower"] * (not flower)
    return {
        **record_of(
            " ".join(["fedkd bench scale --json", f"--repeats {repeats} --rounds {rounds}", *options]),
            ("torch", "numpy", "flwr"),
        ),
        "load": os.getloadavg(),
        "repeats": repeats,
        "rounds": rounds,
        "cases": [asdict(each) for each in measured],
        "runs": [{**asdict(case), "runs": ran} for case, ran in found.items()],
        "growth": growth(measured),
        "flower_adds": flower_adds(measured),
    }


def run_once(case: Case, experiment: Path, *, rounds: int, keys: dict[str, Scalar]) -> dict[str, float]:
    """The figures of one run."""
    given: dict[str, Scalar] = {"num_clients": case.clients, "engine.workers": case.workers, "rounds": rounds, **keys}
    given["device"] = "cpu"
    given["clients_per_node"] = case.cohort
    with tempfile.TemporaryDirectory(prefix="fedkd-bench-") as folder:
        out = Path(folder) / "run"
        chosen = [part for key, value in given.items() for part in ("-c", f"{key}={value}")]
        seen = watch(
            ["run", str(experiment), *chosen, "--engine", case.engine, "--out", str(out)],
            lines_of=out / "timings.jsonl",
        )
        clocks, metrics = (_by_round(out / name) for name in ("timings.jsonl", "metrics.jsonl"))
    first, *later = range(rounds)
    later = later or [first]
    round_s = [clocks[number][m.SECONDS_ROUND] for number in later]
    spent = [clocks[number][m.SECONDS_TRAIN] / case.workers for number in later]
    return {
        "round_s": median(round_s),
        "overhead_s": median(whole - part for whole, part in zip(round_s, spent, strict=True)),
        "first_round_s": clocks[first][m.SECONDS_ROUND],
        "before_s": seen.lines[SETUP_ROUND + 1],  # the first line that is written
        "after_s": seen.seconds - seen.lines[-1],
        "uplink_bytes": metrics[later[-1]][m.UPLINK_BYTES],
        "downlink_bytes": metrics[later[-1]][m.DOWNLINK_BYTES],
        "header_bytes": clocks[later[-1]][m.HEADER_BYTES],
        "peak_pss_bytes": seen.peak_pss_bytes,
        "peak_processes": seen.peak_processes,
    }


def growth(measured: Sequence[Measured]) -> dict[str, Any] | None:
    """The cost per client of the local engine with one worker at the largest size, as a multiple of that at 100."""
    local = {each.clients: each.client_ms for each in measured if (each.engine, each.workers) == ("local", 1)}
    if REFERENCE not in local or max(local) == REFERENCE:
        return None
    return {"clients": max(local), "against": REFERENCE, "ratio": local[max(local)] / local[REFERENCE]}


def flower_adds(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """What a round takes longer on Flower than on the local engine with as many workers, and whether it may."""
    local = {each.clients: each for each in measured if (each.engine, each.workers) == ("local", 2)}
    return [
        {
            "clients": each.clients,
            "cohort": each.cohort,
            "local_s": local[each.clients].round_s,
            "flower_s": each.round_s,
            "adds_s": each.round_s - local[each.clients].round_s,
            "allowed_s": ALLOWED_S + ALLOWED_SHARE * local[each.clients].round_s,
        }
        for each in measured
        if each.engine == "flower" and each.clients in local
    ]


def _medians(case: Case, ran: Sequence[dict[str, float]]) -> Measured:
    middle = {name: median(run[name] for run in ran) for name in ran[0]}
    whole = {name: int(value) for name, value in middle.items() if name.endswith(("_bytes", "_processes"))}
    return Measured(
        **{
            **asdict(case),
            **middle,
            **whole,
            "client_ms": 1e3 * middle["round_s"] / case.clients,
        }
    )


def _by_round(path: Path) -> dict[int, dict[str, Any]]:
    events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {int(event["round_id"]): event for event in events}
