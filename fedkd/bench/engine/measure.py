"""Whole rounds by the clock: every case by fedkd, by variants of its settings and by peers, in interleaved repeats."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedkd.bench.child import ask_child
from fedkd.bench.engine.peers import PEERS, find_peer
from fedkd.bench.engine.reading import Reading
from fedkd.bench.engine.work import CASES, experiment_of
from fedkd.bench.record import interleaved, record_of
from fedkd.compose import parse_overrides
from fedkd.errors import ConfigError
from fedkd.lookup import nearest
from fedkd.types import Flat

OURS = "fedkd"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the command was told.

    Attributes:
        config: `key=value` pairs for every run.
        variants: each some further pairs, for one more run of every case by fedkd.
        peers: names and checkouts.
    """

    cases: Sequence[str] = CASES
    rounds: int = 5
    repeats: int = 3
    config: Sequence[str] = ()
    variants: Sequence[str] = ()
    peers: Sequence[tuple[str, Path]] = ()

    @property
    def command(self) -> str:
        """The command that measures the same again."""
        words = ["fedkd", "bench", "engine", "--json", "--repeats", str(self.repeats), "--rounds", str(self.rounds)]
        words += [word for case in self.cases for word in ("--case", case)] if list(self.cases) != list(CASES) else []
        words += [word for pair in self.config for word in ("-c", pair)]
        words += [word for pairs in self.variants for word in ("--with", pairs)]
        words += [word for name, _ in self.peers for word in ("--peer", name, "PATH")]  # where yours lies
        return shlex.join(words)


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """One line of the table: a case by a system.

    Attributes:
        variant: the pairs that set it apart from fedkd's first line.
    """

    case: str
    system: str
    variant: str = ""
    config: Flat = field(default_factory=dict)
    path: str = ""

    @property
    def label(self) -> str:
        """The system as people read it."""
        return f"{self.system} {self.variant}".strip()

    def read(self) -> Reading:
        """One run of it, in a process of its own."""
        peer = PEERS.get(self.system)
        found = ask_child(
            "fedkd.bench.engine.ours" if peer is None else peer.runner,
            {"case": self.case, "config": dict(self.config), "path": self.path},
            what=f"{self.case} by {self.label}",
            env={} if peer is None else peer.env,
        )
        return Reading(**found)


def measure(settings: Settings, *, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Everything that the table shows.

    Each run is a process of its own on one thread; every repeat goes once through all of them.

    Raises:
        ConfigError: a case, key, variant or peer is wrong; nothing was measured.
        FedKDError: a run failed.
    """
    entries = entries_of(settings)

    def read(entry: Entry) -> Reading:
        say(f"{entry.case} by {entry.label}")
        return entry.read()

    found = dict(zip(entries, interleaved(entries, settings.repeats, read), strict=True))
    return {
        **record_of(settings.command, ("torch", "numpy")),
        "rounds": settings.rounds,
        "repeats": settings.repeats,
        "threads": 1,
        "config": list(settings.config),
        "cases": [_figures(entry, readings) for entry, readings in found.items()],
        "ratios": [
            _ratio(entry, readings, found[_first(entry, entries)])
            for entry, readings in found.items()
            if entry is not _first(entry, entries)
        ],
    }


def entries_of(settings: Settings) -> list[Entry]:
    """The lines of the table, case by case; ConfigError where something is wrong that can be known before."""
    for case in settings.cases:
        if case not in CASES:
            raise ConfigError(f"case {case!r} is unknown{nearest(case, CASES)} Cases: {', '.join(CASES)}", key="case")
    config = _pairs(settings.config, "-c")
    variants = {text: _pairs(shlex.split(text), "--with") for text in settings.variants}
    if empty := [text for text, pairs in variants.items() if not pairs]:
        raise ConfigError(f"--with is {empty[0]!r}, expected key=value pairs, such as engine.stack=never", key="with")
    methods: dict[str, str] = {}
    entries: list[Entry] = []
    for case in dict.fromkeys(settings.cases):
        chosen: dict[str, Flat] = {"": config, **{text: {**config, **pairs} for text, pairs in variants.items()}}
        for text, pairs in chosen.items():
            values = {**pairs, "rounds": settings.rounds}
            experiment = experiment_of(case, values)
            methods.setdefault(case, experiment.method.name)
            entries.append(Entry(case=case, system=OURS, variant=text, config=values))
        for name, path in settings.peers:
            if find_peer(name, path).method == methods[case]:
                values = {**config, "rounds": settings.rounds}
                entries.append(Entry(case=case, system=name, config=values, path=str(path.resolve())))
    for name, _ in settings.peers:
        if all(entry.system != name for entry in entries):
            fitting = [case for case in CASES if case not in settings.cases]
            raise ConfigError(
                f"peer {name} does the work of none of the cases {', '.join(settings.cases)}; add one of "
                f"{', '.join(fitting)} that has method {PEERS[name].method!r}",
                key="peer",
            )
    return entries


def _pairs(texts: Sequence[str], option: str) -> Flat:
    values = parse_overrides(texts)
    if "rounds" in values:
        raise ConfigError(f"{option} sets rounds; use --rounds, which holds for every run", key="rounds")
    return values


def _first(entry: Entry, entries: Sequence[Entry]) -> Entry:
    """The line that others of its case are compared with: fedkd as the experiment says."""
    return next(each for each in entries if each.case == entry.case)


def _figures(entry: Entry, readings: Sequence[Reading]) -> dict[str, Any]:
    """The medians over repeats of medians over the rounds after the first."""
    cpu, wall = [_typical(each.cpu_s) for each in readings], [_typical(each.wall_s) for each in readings]
    over = [1e3 * _typical(_beyond(each)) / each.clients for each in readings]
    rate = [each.flops / c / 1e9 for c, each in zip(cpu, readings, strict=True)]
    peak = [each.gemm_flops_per_s / 1e9 for each in readings]
    first = readings[0]
    return {
        "case": entry.case,
        "system": entry.system,
        "variant": entry.variant,
        "clients": first.clients,
        "rows_trained": first.rows_trained,
        "rows_predicted": first.rows_predicted,
        "cpu_s": _median(cpu),
        "cpu_s_repeats": cpu,
        "wall_s": _median(wall),
        "updates_per_s": _median([first.clients / w for w in wall]),
        "bare_cpu_s": _median([_typical(each.bare_cpu_s) for each in readings]),
        "overhead_ms": _median(over),
        "peak_rss_bytes": int(_median([each.peak_rss_bytes for each in readings])),
        "upload_bytes": _bytes(first.upload_bytes),
        "download_bytes": _bytes(first.download_bytes),
        "gflops_per_s": _median(rate),
        "gemm_gflops_per_s": _median(peak),
        "gemm_share": _median([r / p for r, p in zip(rate, peak, strict=True)]),
        "acc": _median([each.acc for each in readings]),
        "notes": first.notes,
        "readings": [_without_notes(each) for each in readings],
    }


def _ratio(entry: Entry, readings: Sequence[Reading], ours: Sequence[Reading]) -> dict[str, Any]:
    """How many times the CPU of fedkd's first line this one takes, repeat by repeat, and both accuracies."""
    ratios = [_typical(each.cpu_s) / _typical(base.cpu_s) for each, base in zip(readings, ours, strict=True)]
    return {
        "case": entry.case,
        "system": entry.system,
        "variant": entry.variant,
        "cpu": _median(ratios),
        "cpu_low": min(ratios),
        "cpu_high": max(ratios),
        "rows_trained": readings[0].rows_trained / ours[0].rows_trained,
        "acc": _median([each.acc for each in readings]),
        "acc_fedkd": _median([each.acc for each in ours]),
    }


def _beyond(reading: Reading) -> list[float]:
    """CPU seconds of each round beyond those of the bare loop after it."""
    return [cpu - bare for cpu, bare in zip(reading.cpu_s, reading.bare_cpu_s, strict=True)]


def _typical(by_round: Sequence[float]) -> float:
    """The median of the rounds after the first, which also starts everything."""
    return _median(by_round[1:])


def _bytes(by_round: Sequence[int] | None) -> int | None:
    return None if by_round is None else int(_typical(by_round))


def _without_notes(reading: Reading) -> Mapping[str, Any]:
    return {name: value for name, value in asdict(reading).items() if name != "notes"}


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))
