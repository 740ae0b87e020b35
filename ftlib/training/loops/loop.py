"""The training loop for rows as they are, for every such objective, tuning and number of workers.

A step is: seed, micro-batches, one reduction, clip, rate, step; `phase_loop.py` is what is around it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
from typing_extensions import override

from ftlib.kinds.augment import Augment
from ftlib.kinds.split import PreparedSplit
from ftlib.training.checkpoints.resumable import State
from ftlib.training.curves import Curves
from ftlib.training.group import Group
from ftlib.training.loops.asking import Piece
from ftlib.training.loops.attempt import Step
from ftlib.training.loops.batches import GlobalBatch, by_length
from ftlib.training.loops.batches_ahead import AHEAD, BatchesAhead
from ftlib.training.loops.phase_loop import PhaseLoop
from ftlib.training.loops.readings import Readings
from ftlib.training.plan import Plan


class Loop(PhaseLoop):
    """One rank of a phase that learns from its rows."""

    watched: ClassVar[str] = "validation_loss"

    @override
    def __init__(self, plan: Plan, group: Group, curves: Curves) -> None:
        super().__init__(plan, group, curves)
        # Augmentation seeds torch's generators for every row, and what trains draws from them meanwhile.
        is_ahead = group.device.type in AHEAD and plan.phase.augmentation is None
        self.ahead = BatchesAhead(self._building, self.steps, group.device) if is_ahead else None

    @override
    def close(self) -> None:
        if self.ahead:
            self.ahead.close()
        super().close()

    def _building(self, step: int) -> Callable[[], list[Piece]]:
        """Return what builds this rank's pieces of a step's global batch."""
        batch = self.order.at(step)
        return partial(self.asking.build, self._drawn(batch), batch.rows)

    @override
    def _step(self, batch: GlobalBatch, state: State, readings: Readings[Step], *, asks: bool) -> None:
        began = time.monotonic()
        self._begin(state.step)
        split, rate = self._drawn(batch), self._rate(state)
        built = self.ahead.at(state.step) if self.ahead else None
        augment, draw = self._augment(batch), (self.plan.seed, batch.epoch, batch.part)
        pieces, count = self.asking.pieces(split, batch.rows, built, augment=augment, draw=draw)
        sums = self._backward(split, pieces, count, augment)
        numbers = self._update(sums, state, rate, asks=asks)
        readings.add(Step(state.step + 1, batch, count, rate, beside=(*sums.beside,)), numbers, began)

    def _augment(self, batch: GlobalBatch) -> Augment | None:
        augmentation = self.plan.phase.augmentation
        return augmentation.of(self.plan.seed, batch.epoch, batch.part) if augmentation else None

    @override
    @torch.no_grad()
    def _validated(self, split: PreparedSplit) -> float | None:
        """Return the mean loss over a validation split; None where the objective counts nothing in it.

        Rows are spread over the ranks, the order is fixed.
        """
        self.model.eval()
        total, counted = torch.zeros((), dtype=torch.float64, device=self.group.device), 0
        tokens = self.settings.batch_tokens
        for rows in by_length(split.sizes, 2 * self.settings.batch_size, tokens and 2 * tokens):
            pieces, count = self.asking.pieces(split, rows)
            counted += count
            for piece in pieces:
                total += self.asking.loss(split, piece).total * float(piece.counts)
        (summed,) = self.group.sum(total)
        return summed / counted if counted else None  # no loss is not a loss of 0, which nothing would ever beat
