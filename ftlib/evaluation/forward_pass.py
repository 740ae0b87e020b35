"""The forward-only pass: a model and a split to the table of per-example outcomes."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from ftlib.errors import ModelError
from ftlib.evaluation.kept_memory import kept_memory
from ftlib.kinds.batch import Batch
from ftlib.kinds.collate import Collator
from ftlib.kinds.heads.base import Request
from ftlib.kinds.kind import KINDS
from ftlib.kinds.outcomes import Outcomes
from ftlib.kinds.samples import Samples
from ftlib.kinds.split import PreparedSplit
from ftlib.training.compute import Compute
from ftlib.training.loops.batches import by_length
from ftlib.training.resources import check_gpu, in_this_process

ROWS = 32


@dataclass(frozen=True)
class Share:
    """One of `of` lists of batches that are about equally much work, of all batches or of those of another share."""

    index: int
    of: int
    within: Share | None = None

    def parts(self, count: int) -> list[Share]:
        """Return shares of it that together have its batches, each once."""
        return [Share(i, count, self) for i in range(count)]


EVERYTHING = Share(0, 1)

Batches = Iterator[tuple[Int[np.ndarray, " batch"], AbstractContextManager[Batch]]]
"""Rows of a split, and their batch: while it is open, a model is asked about it."""


def batches_of(split: PreparedSplit, share: Share = EVERYTHING) -> list[Int[np.ndarray, " batch"]]:
    """Return a share of the split's batches, longest first.

    All batches are a pure function of the rows' sizes: the same for every model and any number of workers, so that
    models differ by their weights alone and not by padding.
    """
    if share.within is not None:
        batches = batches_of(split, share.within)
    else:
        largest = KINDS[split.kind].head().largest_batch
        size = max(1, min(ROWS, largest // max(1, int(split.sizes.max(initial=0)))))
        batches = by_length(split.sizes, size)
    if share.of == 1:
        return batches
    return [batches[i] for i in _dealt([_places(split, rows) for rows in batches], share.of)[share.index]]


def _places(split: PreparedSplit, rows: Int[np.ndarray, " batch"]) -> int:
    """Return what a batch takes: its rows, each as wide as the widest."""
    return len(rows) * max(1, int(split.sizes[rows].max()))


def _dealt(work: Sequence[int], count: int) -> list[list[int]]:
    """Deal jobs to so many lists, the largest first, each to the list that has the least; return their numbers."""
    lists: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    for job in sorted(range(len(work)), key=lambda job: -work[job]):
        least = loads.index(min(loads))
        lists[least].append(job)
        loads[least] += work[job]
    return [sorted(jobs) for jobs in lists]


def predict_split(
    model: nn.Module,
    split: PreparedSplit,
    labels: tuple[str, ...],
    tokenizer: Callable[[], Any],
    on_rows: Callable[[int], None] = lambda _: None,
    max_new_tokens: int = 0,
    batches: Batches | None = None,
    *,
    num_beams: int = 1,
    samples: Samples | None = None,
) -> Outcomes:
    """Run a model in eval mode over some batches of a split, and return what it said, in the split's order.

    Over all of them unless `batches` are given. `on_rows` hears the rows done so far; `tokenizer` is loaded only for a
    kind of batch whose answers are text. After prompts a model writes up to `max_new_tokens`, the most probable token
    each time, or the most probable text that `num_beams` find; `samples` are drawn beside it. Raises ModelError for a
    result that is not finite.
    """
    answers = KINDS[split.kind].head().answers(Request(split, labels, tokenizer, max_new_tokens, num_beams, samples))
    asked, done = [np.zeros(0, np.int64)], 0
    model.eval()
    with torch.inference_mode():
        for rows, ready in batches_for(model, split) if batches is None else batches:
            with ready as batch:
                answers.add(model, batch, rows)
            asked.append(rows)
            done += len(rows)
            on_rows(done)
    _check_finite(answers.nll, split)
    slices = {name: tuple(column.to_pylist()) for name, column in split.slices.items()}
    table = answers.outcomes({"row_ids": tuple(split.row_ids.to_pylist()), "slices": slices})
    return table if done == len(split) else table.take(np.sort(np.concatenate(asked)))


def batches_for(model: nn.Module, split: PreparedSplit, share: Share = EVERYTHING) -> Batches:
    """Yield a share of the split's batches, made for one model."""
    collate = Collator.of(model)
    for rows in batches_of(split, share):
        yield rows, nullcontext(split.batch(rows, collate))


def _check_finite(nll: Float[np.ndarray, " rows"], split: PreparedSplit) -> None:
    bad = np.flatnonzero(~np.isfinite(nll))
    if len(bad):
        raise ModelError(
            f"the model's answer is not finite on {len(bad)} of {len(nll)} rows, first on row "
            f"{split.row_ids[int(bad[0])]}: its weights overflow; lower the learning rate"
        )


@contextmanager
def resources(compute: Compute) -> Generator[torch.device]:
    """Give the device to run on, with all of the CPU threads the recipe grants; what was set before is restored.

    What passes free is kept for the next ones meanwhile. Raises RecipeError if a GPU is wanted and none is there, but
    for a flow beside a cluster: see `in_this_process`.
    """
    compute = in_this_process(compute)
    check_gpu(compute)
    before = torch.get_num_threads()
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(min(cores, (compute.threads or cores) * max(1, compute.most_workers)))
    try:
        with nullcontext() if compute.use_gpu else kept_memory():
            yield torch.device("cuda" if compute.use_gpu else "cpu")
    finally:
        torch.set_num_threads(before)
