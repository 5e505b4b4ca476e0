"""Lessons of many clients carried out side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedkd.methods.lesson import Learned, Lesson, Material, Term
from fedkd.models.stacked import Stack
from fedkd.tasks.resident import residents, sent
from fedkd.types import Array, Ids, Mask, Metrics

_WINDOW_BYTES = 2**24  # companions gathered ahead, for as many steps as fit


def train_stack(stack: Stack, lessons: Sequence[Lesson], *, device: str = "cpu") -> list[Learned]:
    """What comes of each lesson. Those of one key, of models that the stack was made for.

    Clients with more steps come first in a phase, so that those still at work are a prefix.
    """
    stack.load([lesson.weights for lesson in lessons], [lesson.optimizer for lesson in lessons])
    order = np.arange(len(lessons))  # which lesson each place of the stack holds
    metrics: list[Metrics] = [{} for _ in lessons]
    answers: list[list[Tensor]] = [[] for _ in lessons]
    done = 0
    for number in range(len(lessons[0].phases)):
        steps = np.array([len(lesson.phases[number].batches) for lesson in lessons])
        wanted = np.argsort(-steps, kind="stable")
        if (wanted != order).any():
            places = np.empty_like(order)
            places[order] = np.arange(len(order))
            stack.reorder(places[wanted])
            order = wanted
        here = order.tolist()
        phase = _Phase([lessons[i] for i in here], number, device)
        phase.carry_out(stack, done)
        for place, i in enumerate(here):
            metrics[i] |= phase.means(place)
            answers[i] += phase.answers(place)
        done += int(steps.max())
    learned: list[Learned | None] = [None] * len(lessons)
    for i, (weights, optimizer) in zip(order.tolist(), stack.unload(), strict=True):
        found = torch.cat(answers[i]).cpu() if answers[i] else None
        learned[i] = Learned(weights=weights, optimizer=optimizer, metrics=metrics[i], answers=found)
    return [each for each in learned if each is not None]


class _Phase:
    """One phase of all lessons, in the order of the stack: those with more steps first."""

    def __init__(self, lessons: Sequence[Lesson], number: int, device: str) -> None:
        self._lesson = lessons[0]
        phases = [lesson.phases[number] for lesson in lessons]
        self._steps = np.array([len(phase.batches) for phase in phases])
        self._feeds = [
            _Feed(
                [phase.materials[j] for phase in phases],
                [[each[j] for each in phase.batches] for phase in phases],
                device,
            )
            for j in range(len(phases[0].materials))
        ]
        self._sums = [torch.zeros(len(lessons), device=device) for _ in self._feeds]
        self._device = device
        self._buffer = np.zeros((0,), np.float32)
        self._answers: list[Tensor] = []  # to the first feed: (k, b, c) of each step

    def carry_out(self, stack: Stack, done: int) -> None:
        """All steps, of which `done` lie behind."""
        active = len(self._steps)
        for step in range(self._steps[0]):
            while self._steps[active - 1] <= step:
                active -= 1
            stack.begin(active, self._lesson.rate(done + step))
            # One pass for the batches of all kinds: a twin takes its step in the backward pass, so it is due but once.
            answer = stack.answer(self._inputs(step, active))
            answer = answer.view(active, -1, answer.shape[-1])
            parts, start = [], 0
            for feed, sums in zip(self._feeds, self._sums, strict=True):
                logits, start = answer[:, start : start + feed.size], start + feed.size
                loss = feed.batch(step, active).loss(logits.flatten(0, 1), feed.terms)
                sums[:active] += loss.detach()
                parts.append(loss.sum() if feed.weight == 1.0 else feed.weight * loss.sum())
                if self._lesson.keeps_answers and feed is self._feeds[0]:
                    self._answers.append(logits.detach())
            stack.step(parts[0] if len(parts) == 1 else torch.stack(parts).sum())

    def _inputs(self, step: int, active: int) -> Tensor:
        """Inputs (k * b, ...) of all kinds, client by client; on the CPU in a buffer that the next step overwrites."""
        cut = [found for feed in self._feeds if (found := feed.inputs(step, active)) is not None]
        if len(cut) == len(self._feeds):
            return (cut[0] if len(cut) == 1 else torch.cat(cut, 1)).flatten(0, 1)
        first = self._feeds[0]
        shape = (active, sum(feed.size for feed in self._feeds), *first.input_shape)
        if self._buffer.shape != shape:
            self._buffer = np.empty(shape, first.dtype)
        start = 0
        for feed in self._feeds:
            feed.write_inputs(step, self._buffer[:, start : start + feed.size])
            start += feed.size
        return sent(self._buffer.reshape(-1, *first.input_shape), self._device)

    def means(self, place: int) -> Metrics:
        """The mean losses of a client, absent where it took no step."""
        steps = int(self._steps[place])
        return {
            feed.name: float(sums[place]) / steps for feed, sums in zip(self._feeds, self._sums, strict=True) if steps
        }

    def answers(self, place: int) -> list[Tensor]:
        """The logits (n, c) that a client trained on, in one piece where all its batches are full."""
        if not self._answers:
            return []
        steps, keep = int(self._steps[place]), self._feeds[0].keep
        if keep is None:
            return [torch.stack([each[place] for each in self._answers[:steps]]).flatten(0, 1)]
        at = torch.from_numpy(keep[:steps, place])
        return [each[place][at[step]] for step, each in enumerate(self._answers[:steps])]


@dataclass(frozen=True, eq=False)
class _Batch:
    """What is known of one batch of each active client, (k * b, ...); `keep` (k, b), None: all of it counts."""

    companions: dict[str, Tensor]
    keep: Tensor | None
    clients: int

    def loss(self, logits: Tensor, terms: Sequence[Term]) -> Tensor:
        """(k,) the loss of each client: the sum of its masked means."""
        total = None
        for term in terms:
            losses = term.rows(logits, self.companions).view(self.clients, -1)
            keep = self.companions[term.keep].view(self.clients, -1) if term.keep else None
            if self.keep is not None:
                keep = self.keep if keep is None else keep & self.keep
            mean = losses.mean(1) if keep is None else (losses * keep).sum(1) / keep.sum(1).clamp_min(1)
            mean = mean if term.weight == 1.0 else term.weight * mean
            total = mean if total is None else total + mean
        assert total is not None
        return total


class _Feed:
    """Batches of one kind of material, of all clients of a phase, step by step."""

    def __init__(self, materials: Sequence[Material], batches: Sequence[Sequence[Ids]], device: str) -> None:
        first = materials[0]
        self.name, self.terms, self.weight = first.name, first.terms, first.weight
        self._materials, self._device = materials, device
        self._is_shared = all(m.x is first.x and m.at is first.at for m in materials)
        self._has_one_table = self._is_shared and all(
            m.companions[name] is first.companions[name] for m in materials for name in m.companions
        )
        self._index, self.keep = _padded(batches, first.batch)
        self.size = self._index.shape[2]  # samples in a batch of one client
        self.input_shape, self.dtype = first.x.shape[1:], first.x.dtype
        row_bytes = sum(table[:1].nbytes for table in first.companions.values())
        self._ahead = max(1, _WINDOW_BYTES // max(1, row_bytes * self._index[0].size))  # steps
        self._window: dict[str, Tensor] = {}
        self._start = 0
        self._on_gpu = self._whole()

    def batch(self, step: int, active: int) -> _Batch:
        """The batch of the first `active` clients; steps in order."""
        if not self._window or step >= self._start + self._ahead:
            self._start = step
            self._window = self._companions(slice(step, step + self._ahead))
        keep = None
        if self.keep is not None and not self.keep[step, :active].all():
            keep = sent(self.keep[step, :active], self._device)
        return _Batch(
            companions={name: table[step - self._start, :active].flatten(0, 1) for name, table in self._window.items()},
            keep=keep,
            clients=active,
        )

    def _companions(self, steps: slice) -> dict[str, Tensor]:
        """Companions (steps, m, b, ...) by name."""
        index, found = self._index[steps], {}
        for name, first in self._materials[0].companions.items():
            if self._has_one_table:
                table = first[index]
            else:
                table = np.empty((*index.shape, *first.shape[1:]), first.dtype)
                for i, material in enumerate(self._materials):
                    table[:, i] = material.companions[name][index[:, i]]
            found[name] = sent(table, self._device)
        return found

    def _whole(self) -> tuple[Tensor, Tensor] | None:
        """All inputs of all clients on a GPU, and the positions in them (steps, m, b); None on the CPU.

        None also where they are larger than resident arrays may be: then they are gathered here, step by step.
        """
        kept, first = residents(self._device), self._materials[0]
        arrays = [first.x] if self._is_shared else [each.x for each in self._materials]
        if kept is None or not kept.fits(sum(x.nbytes for x in arrays)):
            return None
        rows, start = self._index.copy(), 0
        for i, each in enumerate(self._materials):
            rows[:, i] = start + (rows[:, i] if each.at is None else each.at[rows[:, i]])
            start += 0 if self._is_shared else len(each.x)
        parts = [kept.rows(x, slice(0, len(x))) for x in arrays]
        return parts[0] if len(parts) == 1 else torch.cat(parts), sent(rows, self._device)

    def inputs(self, step: int, active: int) -> Tensor | None:
        """The inputs (k, b, ...) of the first k clients, where they lie on a GPU."""
        if self._on_gpu is None:
            return None
        table, rows = self._on_gpu
        found = table.index_select(0, rows[step, :active].flatten())
        return found.view(active, self.size, *self.input_shape)

    def write_inputs(self, step: int, out: Array) -> None:
        """Put the inputs of the first k clients into `out` (k, b, ...)."""
        index, first = self._index[step, : len(out)], self._materials[0]
        # `clip` only spares a copy: positions are valid.
        if self._is_shared:
            rows = index if first.at is None else first.at[index]
            np.take(first.x, rows, axis=0, out=out, mode="clip")
            return
        for i, each in enumerate(out):
            at = self._materials[i].at
            self._materials[i].x.take(index[i] if at is None else at[index[i]], axis=0, out=each, mode="clip")


def _padded(batches: Sequence[Sequence[Ids]], size: int) -> tuple[Ids, Mask | None]:
    """Positions (steps, m, b), and which of them count: None where all do.

    Args:
        batches: of each client, in the order of falling numbers of steps.
        size: b, what a batch is filled up to.
    """
    table = np.zeros((len(batches[0]), len(batches), size), np.int64)
    sizes = np.zeros(table.shape[:2], np.int64)
    for i, each in enumerate(batches):
        counts = [len(index) for index in each]
        sizes[: len(each), i] = counts
        # A client's batches at once: one by one they took a tenth of the round.
        if set(counts) == {size}:
            table[: len(each), i] = np.concatenate(each).reshape(-1, size)
            continue
        for step, index in enumerate(each):
            table[step, i, : len(index)] = index
            table[step, i, len(index) :] = index[0]
    keep = np.arange(size) < sizes[..., None]
    is_full = bool((sizes == size).all(where=sizes > 0))
    return table, None if is_full else keep
