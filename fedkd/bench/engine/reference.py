"""What the work of a case takes at least: a bare PyTorch loop, its floating point operations, and the GEMM peak."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from fedkd.bench.engine.work import Work
from fedkd.federation.preflight import server_model_builder
from fedkd.methods.base import DeviceProfile
from fedkd.models.optimizers import make_optimizer

GEMM_SIZE = 1024
_GEMM_TRIES = 10
_PASSES = 2
_PREDICT_BATCH = DeviceProfile().predict_batch


def new_model(work: Work) -> nn.Module:
    """The model of the case with fresh weights."""
    return server_model_builder(work.experiment, work.plan.dataset)()


def flops_per_round(work: Work) -> float:
    """Floating point operations of all clients in one round: forward and backward of the rows trained, forward of
    those predicted. Losses and the optimiser are not in it.
    """
    x = torch.from_numpy(work.own(0).x[: work.experiment.schedule.private_batch])
    forward, both = _flops(work, x, with_gradients=False), _flops(work, x, with_gradients=True)
    return (work.rows_trained * both + work.rows_predicted * forward) / len(x)


def gemm_flops_per_s() -> float:
    """The best rate of `torch.mm` on float32 matrices of GEMM_SIZE, by processor time."""
    left, right = torch.randn(2, GEMM_SIZE, GEMM_SIZE).unbind()
    out = torch.mm(left, right)
    seconds = min(_cpu_seconds(lambda: torch.mm(left, right, out=out)) for _ in range(_GEMM_TRIES))
    return 2 * GEMM_SIZE**3 / seconds


class BareLoop:
    """The steps of one client in one round, and nothing else.

    Forward, loss, backward and optimiser step on batches cut from tensors, and the predictions: no messages, no state
    that is loaded or kept, no checks.
    """

    def __init__(self, work: Work) -> None:
        plan, own = work.experiment.schedule, work.own(0)
        self.work, self.plan = work, plan
        self.x, self.y = torch.from_numpy(own.x), torch.from_numpy(own.labels)
        self.proxy = None if work.proxy is None else torch.from_numpy(work.proxy.x)
        self.model = new_model(work)
        if self.x.ndim == 4:  # as fedkd lays its models out; torch's default takes a CNN about half as long again
            self.model = self.model.to(memory_format=torch.channels_last)
        self.optimizer = make_optimizer(
            plan.optimizer,
            [{"params": list(self.model.parameters())}],
            lr=plan.lr,
            momentum=plan.momentum,
            weight_decay=plan.weight_decay,
        )
        classes = work.plan.dataset.num_classes
        self.by_class = torch.full((classes, classes), 1 / classes) if work.experiment.method.name == "fd" else None
        self.by_row = None if self.proxy is None else torch.full((len(self.proxy), classes), 1 / classes)

    def cpu_s(self) -> float:
        """CPU seconds of all steps, mean of a few passes."""
        return _cpu_seconds(self._run) / _PASSES

    def _run(self) -> None:
        for _ in range(_PASSES):
            self._train()
            self._predict()

    def _train(self) -> None:
        self.model.train()
        for loss in self._losses():
            self.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            self.optimizer.step()

    def _predict(self) -> None:
        self.model.eval()
        if self.proxy is not None:
            with torch.inference_mode():
                for start in range(0, len(self.proxy), _PREDICT_BATCH):
                    self.model(self.proxy[start : start + _PREDICT_BATCH]).numpy()

    def _losses(self) -> Iterator[Tensor]:
        if self.proxy is not None and self.by_row is not None:
            for _ in range(self.plan.distil_epochs):
                order = torch.randperm(len(self.proxy))
                for batch in self.work.distil_batches():
                    index = order[batch]
                    yield _kl(self.model(self.proxy[index]), self.by_row[index])
        for _ in range(self.plan.private_epochs):
            order = torch.randperm(len(self.x))
            for batch in self.work.private_batches(len(self.x)):
                index = order[batch]
                logits, y = self.model(self.x[index]), self.y[index]
                loss = functional.cross_entropy(logits, y)
                yield loss if self.by_class is None else loss + _kl(logits, self.by_class[y])


def _kl(logits: Tensor, target: Tensor) -> Tensor:
    return functional.kl_div(logits.log_softmax(-1), target, reduction="batchmean")


def _flops(work: Work, x: Tensor, *, with_gradients: bool) -> int:
    model = new_model(work)
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(with_gradients):
        logits = model(x)
        if with_gradients:
            torch.autograd.backward(logits.sum())
    return int(counter.get_total_flops())


def _cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started
