"""What one child process reads off a run of a case."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from fedkd.bench.child import peak_rss_bytes
from fedkd.bench.engine.work import Work


class Clock:
    """Processor and wall time of this process in each round, from when it was made.

    After each round it also takes the time of a bare loop over the same steps, which is then not part of the next
    round: side by side, both meet the machine in the same state.
    """

    def __init__(self, work: Work) -> None:
        from fedkd.bench.engine.reference import BareLoop

        self.work = work
        self.cpu_s: list[float] = []
        self.wall_s: list[float] = []
        self.bare_cpu_s: list[float] = []
        self._bare = BareLoop(work)
        self._start()

    def tick(self) -> None:
        """A round ends here."""
        self.cpu_s.append(time.process_time() - self._cpu)
        self.wall_s.append(time.perf_counter() - self._wall)
        self.bare_cpu_s.append(self.work.num_clients * self._bare.cpu_s())
        self._start()

    def _start(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One run of one system. Lists are by round; what is not counted is None.

    Attributes:
        bare_cpu_s: what a bare loop over the steps of all clients took, after each round.
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
    bare_cpu_s: list[float]
    gemm_flops_per_s: float
    notes: list[str]


def read(
    clock: Clock,
    *,
    acc: float,
    upload_bytes: list[int] | None = None,
    download_bytes: list[int] | None = None,
    notes: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The Reading of a run that is over, as a child's answer."""
    peak, work = peak_rss_bytes(), clock.work  # the peak before what follows takes memory of its own
    from fedkd.bench.engine.reference import flops_per_round, gemm_flops_per_s

    return asdict(
        Reading(
            cpu_s=clock.cpu_s,
            wall_s=clock.wall_s,
            upload_bytes=upload_bytes,
            download_bytes=download_bytes,
            peak_rss_bytes=peak,
            acc=acc,
            clients=work.num_clients,
            rows_trained=work.rows_trained,
            rows_predicted=work.rows_predicted,
            flops=flops_per_round(work),
            bare_cpu_s=clock.bare_cpu_s,
            gemm_flops_per_s=gemm_flops_per_s(),
            notes=list(notes),
        )
    )
