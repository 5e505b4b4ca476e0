"""A case run by fedkd itself: `python -m fedkd.bench.engine.ours`, asked by `ask_child`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedkd import metric_names as m
from fedkd.bench.child import answer
from fedkd.bench.engine.reading import Clock, read
from fedkd.bench.engine.work import Work, experiment_of
from fedkd.errors import RunError
from fedkd.federation.emitter import SETUP_ROUND


def run_case(request: dict[str, Any]) -> dict[str, Any]:
    """Coordinator and LocalFleet over `case` with the keys of `config`; the Reading."""
    import torch

    from fedkd.runner import conduct_locally, start_run

    torch.set_num_threads(1)
    experiment = experiment_of(request["case"], request["config"])
    with tempfile.TemporaryDirectory(prefix="fedkd-bench-") as scratch:
        run = start_run(experiment, Path(scratch) / "run")
        seen = _Listener(Work(experiment, run.plan))
        summary = conduct_locally(run, listeners=[seen], with_report=False)
    assert seen.clock is not None  # the set-up started it
    return read(
        seen.clock,
        acc=summary["acc_mean_final"],
        upload_bytes=seen.upload_bytes,
        download_bytes=seen.download_bytes,
    )


@dataclass(eq=False)
class _Listener:
    """Reads the clock at the end of each round: what a round does after that, a checkpoint, counts for the next."""

    work: Work
    clock: Clock | None = None
    upload_bytes: list[int] = field(default_factory=list)
    download_bytes: list[int] = field(default_factory=list)

    def __call__(self, event: Mapping[str, Any]) -> None:
        round_id, rounds = event["round_id"], self.work.experiment.core.rounds
        if m.SECONDS_ROUND in event:
            if round_id == SETUP_ROUND:
                self.clock = Clock(self.work)
            elif round_id < rounds and self.clock is not None:
                self.clock.tick()
        elif SETUP_ROUND < round_id < rounds:
            if event[m.GOOD_REPLIES] != self.work.num_clients:
                raise RunError(
                    f"round {round_id}: {event[m.GOOD_REPLIES]} good replies of {self.work.num_clients} clients, so "
                    "its time means nothing; `fedkd run` with the same keys says why the others failed"
                )
            self.upload_bytes.append(event[m.UPLINK_BYTES])
            self.download_bytes.append(event[m.DOWNLINK_BYTES])


if __name__ == "__main__":
    answer(run_case)
