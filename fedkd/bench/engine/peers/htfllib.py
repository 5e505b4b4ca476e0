"""HtFLlib's `FD` on W-A: `python -m fedkd.bench.engine.peers.htfllib`, asked by `ask_child`.

Its server and clients are driven round by round as its own loop does it, without its evaluation.
"""

from __future__ import annotations

import os
import tempfile
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fedkd.bench.child import answer
from fedkd.bench.engine.peers.shared import Headed, mean_accuracy, peer_module, peer_work, timed_rounds
from fedkd.bench.engine.reading import read
from fedkd.bench.engine.reference import new_model
from fedkd.bench.engine.work import Work
from fedkd.data.base import Samples

_DATA = "workload_s"


def run_case(request: dict[str, Any]) -> dict[str, Any]:
    """The Reading of `case`, by the checkout at `path`."""
    work = replace(peer_work(request, "HtFLlib"), drops_last=True)
    system = Path(request["path"]) / "system"
    with tempfile.TemporaryDirectory(prefix="fedkd-bench-") as scratch:
        (Path(scratch) / "system").mkdir()
        os.chdir(Path(scratch) / "system")  # it looks for ../dataset, and keeps models under temp/
        try:
            _write_data(work, Path(scratch) / "dataset" / _DATA)
            server, client_base = _server(work, system)

            def one_round() -> None:
                server.selected_clients = server.select_clients()
                for client in server.selected_clients:
                    client.train()
                server.receive_logits()

            clock = timed_rounds(work, one_round)
            models = (client_base.load_item(each.role, "model", each.save_folder_name) for each in server.clients)
            acc = mean_accuracy(models, work.plan.dataset.test)
        finally:
            os.chdir(scratch)
    return read(clock, acc=acc, notes=_notes(work))


def _server(work: Work, system: Path) -> tuple[Any, Any]:
    """Its server with its clients, and the module that reads what they have written."""
    servers = peer_module("flcore.servers.serverfd", system, peer="HtFLlib")
    zoo = peer_module("flcore.trainmodel.models", system, peer="HtFLlib")
    zoo.workload_model = lambda: Headed(_sequential(work))  # models are named by code that is evaluated in there
    core, plan = work.experiment.core, work.experiment.schedule
    args = Namespace(
        algorithm="FD",
        auto_break=False,
        batch_size=plan.private_batch,
        client_drop_rate=0.0,
        dataset=_DATA,
        device="cpu",
        eval_gap=core.rounds + 1,
        feature_dim=Headed(_sequential(work)).fc.in_features,  # so its pooling in place of the head changes nothing
        few_shot=0,
        global_rounds=core.rounds,
        goal="bench",
        join_ratio=1.0,
        lamda=work.experiment.method.config.kd_weight,
        local_epochs=plan.private_epochs,
        local_learning_rate=plan.lr,
        models=["workload_model()"],
        models_folder_name="",
        num_classes=work.plan.dataset.num_classes,
        num_clients=core.num_clients,
        random_join_ratio=False,
        save_folder_name="temp",
        send_slow_rate=0.0,
        time_select=False,
        time_threthold=10_000,
        top_cnt=100,
        train_slow_rate=0.0,
    )
    return servers.FD(args, 0), peer_module("flcore.clients.clientbase", system, peer="HtFLlib")


def _sequential(work: Work) -> Any:
    return new_model(work)


def _write_data(work: Work, folder: Path) -> None:
    for part in ("train", "test"):
        (folder / part).mkdir(parents=True)
    few = work.plan.dataset.test.take(np.arange(1))  # its clients only count their test rows here
    for client_id in range(work.num_clients):
        _write(work.own(client_id), folder / "train" / f"{client_id}.npz")
        _write(few, folder / "test" / f"{client_id}.npz")


def _write(samples: Samples, path: Path) -> None:
    np.savez(path, data=np.array({"x": samples.x, "y": samples.labels}, dtype=object))


def _notes(work: Work) -> tuple[str, ...]:
    rows, size = len(work.plan.partition.indices[0]), work.experiment.schedule.private_batch
    left = f", and the short last one is left out: {rows - rows % size} of {rows} rows are trained on"
    return (
        f"batches come in the order of storage, unshuffled{left if rows % size else ''}",
        "distils by cross-entropy against the averaged logits as they are; fedkd by KL against their softmax",
        "its average has the client's own voice in it",
        "its evaluation is not run; data and models pass through files in each round, as in its own loop",
        "bytes are not counted, and its peak memory holds the data set that this bench drew and wrote for it",
    )


if __name__ == "__main__":
    answer(run_case)
