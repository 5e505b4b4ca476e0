"""What one child process reads off a run of a case."""

from __future__ import annotations

import itertools
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from fedkd.bench.child import peak_rss_bytes
from fedkd.bench.engine.work import Work


@dataclass(eq=False)
class Clock:
    """Processor and wall time of this process at the ends of rounds, from when it was made."""

    cpu_s: list[float] = field(default_factory=lambda: [time.process_time()])
    wall_s: list[float] = field(default_factory=lambda: [time.perf_counter()])

    def tick(self) -> None:
        """A round ends here."""
        self.cpu_s.append(time.process_time())
        self.wall_s.append(time.perf_counter())


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One run of one system. Lists are by round; what is not counted is None.

    Attributes:
        bare_cpu_s: what `reference.bare_cpu_s` took for a round's work in the same process.
        flops: of a round's work.
        acc: mean accuracy of the clients on the whole test set, after the last round.
    """

    cpu_s: list[float]
    wall_s: list[float]
    upload_bytes: list[int] | None
    download_bytes: list[int] | None
    peak_rss_bytes: int
    acc: float
    clients: int
    rows_trained: int
    rows_predicted: int
    flops: float
    bare_cpu_s: float
    gemm_flops_per_s: float
    notes: list[str]


def read(
    work: Work,
    clock: Clock,
    *,
    acc: float,
    upload_bytes: list[int] | None = None,
    download_bytes: list[int] | None = None,
    notes: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The Reading of a run that is over, as a child's answer; measures the reference for it."""
    peak = peak_rss_bytes()  # before the reference takes memory of its own
    from fedkd.bench.engine.reference import bare_cpu_s, flops_per_round, gemm_flops_per_s

    return asdict(
        Reading(
            cpu_s=_lengths(clock.cpu_s),
            wall_s=_lengths(clock.wall_s),
            upload_bytes=upload_bytes,
            download_bytes=download_bytes,
            peak_rss_bytes=peak,
            acc=acc,
            clients=work.num_clients,
            rows_trained=work.rows_trained,
            rows_predicted=work.rows_predicted,
            flops=flops_per_round(work),
            bare_cpu_s=bare_cpu_s(work),
            gemm_flops_per_s=gemm_flops_per_s(),
            notes=list(notes),
        )
    )


def _lengths(ends: list[float]) -> list[float]:
    return [end - start for start, end in itertools.pairwise(ends)]
