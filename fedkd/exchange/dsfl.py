"""DS-FL on the server: entropy reduction aggregation and a server model trained on the aggregate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, final

import numpy as np

from fedkd.checks import check_choice, check_range
from fedkd.exchange.combine import combine_streams
from fedkd.exchange.scheme import ServerContext, ServerScheme, ServerState
from fedkd.functional.aggregation import entropy_reduction, row_entropy
from fedkd.functional.batching import batch_starts
from fedkd.metric_names import SERVER_ACC, TEACHER_ENTROPY
from fedkd.rows import Knowledge, Share


@dataclass(frozen=True, kw_only=True)
class DsFlConfig:
    """Itahara et al. 2021."""

    aggregation: str = "era"  # era: entropy reduction; sa: plain mean (the paper's ablation)
    temperature: float = 0.1  # T of ERA; > 0; lower is sharper
    lr: float = 0.1  # SGD on the server model
    epochs: int = 5  # passes over the aggregated rows per round
    batch: int = 64

    def __post_init__(self) -> None:
        check_choice("aggregation", self.aggregation, ("era", "sa"))
        check_range("temperature", self.temperature, above=0.0)
        check_range("lr", self.lr, above=0.0)
        check_range("epochs", self.epochs, low=0)
        check_range("batch", self.batch, low=1)


@final
class DsFl(ServerScheme):
    """Clients learn from the sharpened mean of their probabilities, and so does a model on the server."""

    Config: ClassVar[type] = DsFlConfig
    spaces = frozenset({"proxy"})
    kinds = frozenset({"probs"})
    tasks = frozenset({"classification"})  # its own model is trained and judged by one row per sample
    one_pass = True

    def __init__(self, config: DsFlConfig) -> None:
        self.config = config

    def init(self, ctx: ServerContext) -> ServerState:
        """The weights of the server model."""
        import torch

        from fedkd.models.pool import snapshot

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(ctx.rng("server-init").integers(2**62)))
            return {"model": snapshot(ctx.build_model())}

    def step(self, ctx: ServerContext, state: ServerState, shares: Iterable[Share]) -> tuple[ServerState, Knowledge]:
        """Aggregate the main stream, train the server model on it."""
        mean = combine_streams(shares).get(("proxy", "probs", ""))
        if mean is None:
            return state, Knowledge()
        if self.config.aggregation == "era":
            sharp = entropy_reduction(mean.values, temperature=self.config.temperature)
            mean = replace(mean, values=sharp.astype(np.float32))
        ctx.emit({TEACHER_ENTROPY: float(row_entropy(mean.values).mean())})
        return {"model": self._train(ctx, state, mean.ids, mean.values)}, Knowledge(common=(mean,))

    def _train(self, ctx: ServerContext, state: ServerState, ids: np.ndarray, targets: np.ndarray) -> ServerState:
        """The server model's weights after `epochs` passes over the rows."""
        import torch

        from fedkd.functional.losses import soft_target_rows
        from fedkd.models.pool import snapshot

        if ctx.proxy is None:
            return dict(state["model"])
        rng = ctx.rng("server-order")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**62)))
            model = ctx.build_model()
            model.load_state_dict(state["model"])
            model.train()
            optimizer = torch.optim.SGD(model.parameters(), lr=self.config.lr)
            x = torch.from_numpy(ctx.proxy.x[ids // ctx.rows_per_sample])
            teacher = torch.from_numpy(targets)
            for _ in range(self.config.epochs):
                order = torch.from_numpy(rng.permutation(len(ids)))
                for start in batch_starts(len(ids), self.config.batch):
                    index = order[start : start + self.config.batch]
                    loss = soft_target_rows(model(x[index]), teacher[index], temperature=1.0).mean()
                    optimizer.zero_grad(set_to_none=True)
                    torch.autograd.backward(loss)
                    optimizer.step()
        if ctx.test is not None and len(ctx.test):
            model.eval()
            with torch.inference_mode():
                predicted = model(torch.from_numpy(ctx.test.x)).argmax(-1).numpy()
            ctx.emit({SERVER_ACC: float((predicted == ctx.test.labels).mean())})
        return snapshot(model)
