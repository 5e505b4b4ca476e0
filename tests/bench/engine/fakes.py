"""Tiny checkouts with the interfaces that the runners of peers use, written by us for these tests."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

_HTFLLIB = {
    "flcore/servers/serverfd.py": """
        import fake_dependency
        from flcore.clients.clientbase import Client

        class FD:
            def __init__(self, args, times):
                self.clients = [Client(args, number) for number in range(args.num_clients)]
                self.selected_clients = []
                print("words that must not reach the answer")

            def select_clients(self):
                return self.clients[::-1]

            def receive_logits(self):
                assert [client.role for client in self.selected_clients] == [c.role for c in self.clients[::-1]]
        """,
    "flcore/clients/clientbase.py": """
        import os
        import numpy
        import torch
        from flcore.trainmodel.models import Split

        class Client:
            def __init__(self, args, number):
                assert args.lamda == 0.01 and args.local_epochs == 1 and args.join_ratio == 1.0
                self.args, self.role, self.save_folder_name = args, f"Client_{number}", "temp/here"
                data = numpy.load(f"../dataset/{args.dataset}/train/{number}.npz", allow_pickle=True)["data"].tolist()
                self.x, self.y = torch.Tensor(data["x"]), torch.Tensor(data["y"]).long()
                save_item(Split(args), self.role, "model", self.save_folder_name)

            def train(self):
                model = load_item(self.role, "model", self.save_folder_name)
                optimizer = torch.optim.SGD(model.parameters(), lr=self.args.local_learning_rate)
                for start in range(0, len(self.x) - self.args.batch_size + 1, self.args.batch_size):
                    batch = slice(start, start + self.args.batch_size)
                    optimizer.zero_grad()
                    torch.nn.functional.cross_entropy(model(self.x[batch]), self.y[batch]).backward()
                    optimizer.step()
                save_item(model, self.role, "model", self.save_folder_name)

        def save_item(item, role, name, folder):
            os.makedirs(folder, exist_ok=True)
            torch.save(item, f"{folder}/{role}_{name}.pt")

        def load_item(role, name, folder):
            return torch.load(f"{folder}/{role}_{name}.pt")
        """,
    "flcore/trainmodel/models.py": """
        from torch import nn

        class Split(nn.Module):
            def __init__(self, args):
                super().__init__()
                self.base = eval(args.models[0])
                self.base.fc = nn.AdaptiveAvgPool1d(args.feature_dim)
                self.head = nn.Linear(args.feature_dim, args.num_classes)

            def forward(self, x):
                return self.head(self.base(x))
        """,
}
_BLAZEFL = {
    "src/blazefl/core/__init__.py": """
        from blazefl.core.utils import share_memory

        class FilteredDataset:
            def __init__(self, indices, original_data, original_targets=None):
                self.x = [original_data[i] for i in indices]
                self.y = None if original_targets is None else [original_targets[i] for i in indices]
        """,
    "src/blazefl/core/utils.py": """
        def share_memory[T](value: T) -> T:
            return value
        """,
    "examples/step-by-step-dsfl/dataset/__init__.py": """
        from enum import StrEnum

        class DSFLPartitionType(StrEnum):
            TRAIN = "TRAIN"
            OPEN = "OPEN"
            TEST = "TEST"

        class DSFLPartitionedDataset:
            def __init__(self, root, path, num_clients, seed, partition, open_size, dir_alpha):
                self.path, self.num_clients, self.open_size = path, num_clients, open_size
                self._preprocess()
        """,
    "examples/step-by-step-dsfl/algorithm/__init__.py": """
        from algorithm.dsfl import DSFLBaseServerHandler, DSFLThreadPoolClientTrainer
        """,
    "examples/step-by-step-dsfl/algorithm/dsfl.py": """
        from types import SimpleNamespace
        import torch
        from torch.nn import functional

        class DSFLBaseServerHandler:
            def __init__(self, model_selector, model_name, dataset, global_round, num_clients, sample_ratio, device,
                         kd_epochs, kd_batch_size, kd_lr, era_temperature, open_size_per_round, seed):
                assert kd_epochs == 0 and sample_ratio == 1.0 and open_size_per_round == dataset.open_size
                self.num_clients, self.loaded, self.mean = num_clients, [], None

            def sample_clients(self):
                return list(range(self.num_clients))

            def downlink_package(self):
                return self.mean

            def load(self, package):
                self.loaded.append(package)
                if len(self.loaded) == self.num_clients:
                    self.mean, self.loaded = torch.stack(self.loaded).mean(0).softmax(-1), []

        class DSFLThreadPoolClientTrainer:
            def __init__(self, model_selector, model_name, state_dir, dataset, device, num_clients, epochs, batch_size,
                         lr, kd_epochs, kd_batch_size, kd_lr, seed, num_parallels):
                assert num_parallels == 1 and kd_epochs == 1
                self.select, self.path, self.epochs, self.lr = model_selector.select_model, dataset.path, epochs, lr
                self.batch_size, self.cache, self.client_states = batch_size, [], {}

            def local_process(self, payload, clients):
                for client in clients:
                    model = self.select("any")
                    if client in self.client_states:
                        model.load_state_dict(self.client_states[client].model)
                    optimizer = torch.optim.SGD(model.parameters(), lr=self.lr)
                    data, proxy = self._read(f"TRAIN/{client}"), torch.stack(self._read("OPEN").x)
                    assert len(self._read(f"TEST/{client}").x) == 1
                    losses = [] if payload is None else [lambda: functional.kl_div(
                        model(proxy).log_softmax(-1), payload, reduction="batchmean")]
                    x, y = torch.stack(data.x), torch.tensor(data.y)
                    losses += [lambda: functional.cross_entropy(model(x), y)] * self.epochs
                    for loss in losses:
                        optimizer.zero_grad()
                        loss().backward()
                        optimizer.step()
                    self.cache.append(model(proxy).softmax(-1).detach())
                    self.client_states[client] = SimpleNamespace(model=model.state_dict())

            def uplink_package(self):
                packages, self.cache = self.cache, []
                return packages

            def _read(self, name):
                return torch.load(self.path / f"{name}.pkl", weights_only=False)
        """,
}


def htfllib(path: Path) -> Path:
    """A checkout of what is driven of HtFLlib; it needs a package `fake_dependency`."""
    _write(path / "system", _HTFLLIB)
    return path


def blazefl(path: Path) -> Path:
    """A checkout of what is driven of BlazeFL, with a module in the syntax of a later Python."""
    _write(path, _BLAZEFL)
    return path


def _write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(text))
