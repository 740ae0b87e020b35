"""Frozen models asked about whole splits: in this process, or by several workers that share the batches."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Int

from ftlib.config import Config
from ftlib.evaluation.forward_pass import EVERYTHING, Share, batches_of, resources
from ftlib.kinds.split import PreparedSplit
from ftlib.progress import emit
from ftlib.training.compute import Compute

T = TypeVar("T")


class Models(ABC, Generic[T]):
    """A plan's models in one process's memory."""

    @abstractmethod
    def answer(self, item: int, on_rows: Callable[[int], None] = lambda _: None, share: Share = EVERYTHING) -> T:
        """Return what an item's model says about this share of its rows, in the split's order.

        `on_rows` hears how many rows are done.
        """


class InferencePlan(Config, ABC, Generic[T]):
    """What to ask frozen models, and where their answers go: plain data, so that it crosses to a Ray worker.

    It has items, counted from 0: a model and a split, answered by one `T`.
    """

    name: str
    """What it is for, for signs of life and errors."""
    compute: Compute

    @property
    @abstractmethod
    def what(self) -> str:
        """Return what signs of life and errors call it: `evaluate home`."""

    @property
    @abstractmethod
    def job_file(self) -> Path:
        """Return a file for a cluster's driver to read the plan from; its name is unique to what is asked."""

    @property
    @abstractmethod
    def made(self) -> list[Path]:
        """Return the files that `make` leaves."""

    @abstractmethod
    def models(self, device: torch.device) -> Models[T]:
        """Return the models, for `infer_here` or for a worker. Raises ModelError for weights that do not load."""

    @abstractmethod
    def rows(self, item: int) -> PreparedSplit:
        """Return the rows that an item's model is asked about."""

    @abstractmethod
    def done_before(self, item: int) -> tuple[int, int]:
        """Return the rows of all items before this one, and of all items."""

    @abstractmethod
    def make(self, answer: Callable[[int], T]) -> None:
        """Have every item answered that has no file yet, and write it."""

    @abstractmethod
    def to_bytes(self, answer: T) -> bytes:
        """Return an answer as a worker sends it: bytes of our own making, never a pickle."""

    @abstractmethod
    def joined(self, parts: Sequence[bytes], order: Int[np.ndarray, " rows"]) -> T:
        """Return the answer of which these are shares, one after the other; row i of it is their row `order[i]`."""

    def report(self, item: int, done: int) -> None:
        """Say about how many of an item's rows its model was asked."""
        before, total = self.done_before(item)
        emit(self.what, before + done, total, "rows")

    def whole(self, item: int, parts: Sequence[bytes]) -> T:
        """Return an item's answer from all of its shares, in their order."""
        return self.joined(parts, order_of(self.rows(item), EVERYTHING.parts(len(parts))))


def order_of(split: PreparedSplit, shares: Sequence[Share]) -> Int[np.ndarray, " rows"]:
    """Return the order that puts answers to these shares, one after the other, into the split's order.

    Each answer is in that order itself.
    """
    rows = [np.sort(np.concatenate([*batches_of(split, share), np.zeros(0, np.int64)])) for share in shares]
    return np.argsort(np.concatenate(rows))


def infer_here(plan: InferencePlan[T]) -> None:
    """Answer the plan in this process. Raises ModelError for weights that do not load, or answers not finite."""
    with resources(plan.compute) as device:
        models = plan.models(device)
        plan.make(lambda item: models.answer(item, lambda done: plan.report(item, done)))


def threads_each(compute: Compute) -> int:
    """Return the CPU threads of one of several workers."""
    return compute.threads or max(1, (os.cpu_count() or 1) // compute.evaluation_workers)
