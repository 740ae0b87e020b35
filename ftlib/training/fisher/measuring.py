"""Measures the diagonal of the Fisher information: one row after another, forward and back.

The square is of each row's own gradient, and labels are drawn from the model. The square of a batch's mean gradient is
another number, which falls with the size of the batch; with the rows' own labels it is the empirical Fisher, which is 0
where the model is right. Drawn labels depend on the seed and the row's place, so nothing depends on how rows are dealt
out. The model is in eval mode: dropout is off and BatchNorm's statistics stay.

A worker holds the weights, a gradient and F: its part of them where the model is sharded, whose workers then read every
row together. Workers that have the whole model read different rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Int
from torch import nn

from ftlib.data.prepared import split_file
from ftlib.errors import DataError, ModelError
from ftlib.kinds.batch import Batch
from ftlib.kinds.collate import Collator
from ftlib.kinds.kind import KINDS
from ftlib.kinds.loading import is_adapted, load_unread, merged
from ftlib.kinds.open_split import open_split
from ftlib.kinds.split import PreparedSplit
from ftlib.models.unread import read_all
from ftlib.progress import emit
from ftlib.storage.node_cache import local_path
from ftlib.training.checkpoints.run_place import result_bytes
from ftlib.training.fisher.parts import write_parts
from ftlib.training.fisher.record import FILE, FisherPlan
from ftlib.training.group import Group, own_part, shards_of
from ftlib.training.loops.phase_loop import hash_seed
from ftlib.training.loops.phase_model import place
from ftlib.training.plan import Part
from ftlib.training.reproducible import reproducibly
from ftlib.training.worker import RESULT, take_part


def work(plan: FisherPlan) -> None:
    """Measure one rank's part and write the plan's file, collectively. Raises TransientError as `take_part` does.

    What is left in failure.json is a DataError for a dataset without training rows, a ModelError where a gradient is
    not finite.
    """

    def act(group: Group) -> None:
        facts = reproducibly(group.device, lambda: measure(plan, group))
        if group.is_first:
            place = plan.place
            place.write(RESULT, result_bytes(place, facts, [FILE]))
        group.barrier()

    take_part(plan, act)


def measure(plan: FisherPlan, group: Group) -> dict[str, float | int]:
    """Write the file collectively; return how many rows were asked, and the sum of all its numbers.

    Raises DataError for a dataset without training rows, ModelError where a gradient is not finite.
    """
    model = _model(plan, group)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(own_part(p), dtype=torch.float32) for name, p in parameters.items()}
    asked = 0
    for part in plan.parts:
        split = open_split(split_file(local_path(part.folder), "train"), plan.labels)
        rows = rows_of(part, split, plan)
        _add_squares(model, parameters, total, plan, group, split, rows, asked)
        asked += len(rows)
    if shards_of(model) is None and group.world_size > 1:
        for name, own in total.items():
            total[name] = group.add_up(own)
    sums = torch.stack([own.double().sum() for own in total.values()]).sum()
    trace = group.sum(sums * group.share_of(model))[0]
    if not np.isfinite(trace):
        raise ModelError(f"fisher: a gradient of {plan.start.phase} is not finite on some row; look at the rows")
    write_parts(plan.place.folder / FILE, total, parameters, group)
    return {"rows": asked, "trace": trace}


def _model(plan: FisherPlan, group: Group) -> nn.Module:
    """Return the model at its start, merged if it is an adapter, with this rank's part; all of it has gradients."""
    model = load_unread(plan.start, plan.kind)
    if is_adapted(model):
        model = merged(read_all(model))
    model.requires_grad_(True)
    return place(model, plan.compute, "fp32", group).eval()


def rows_of(part: Part, split: PreparedSplit, plan: FisherPlan) -> Int[np.ndarray, " rows"]:
    """Return which rows of a dataset are asked, in their order: drawn by the seed from those that are taught anything.

    Raises DataError if there is none.
    """
    taught = np.flatnonzero(split.supervised)
    if not len(taught):
        raise DataError(f"fisher: dataset {part.name!r} has no training row that teaches anything; name another one")
    return np.sort(np.random.default_rng(plan.seed).permutation(taught)[: plan.rows])


def _add_squares(
    model: nn.Module,
    parameters: dict[str, nn.Parameter],
    total: dict[str, torch.Tensor],
    plan: FisherPlan,
    group: Group,
    split: PreparedSplit,
    rows: Int[np.ndarray, " rows"],
    before: int,
) -> None:
    """Add the mean square of the rows' gradients to this rank's part of F."""
    head, collate = KINDS[split.kind].head(), Collator.of(model, group.device)
    for row, batch in _batches(split, rows, collate, group, sharded=shards_of(model) is not None):
        random = np.random.default_rng(hash_seed(plan.seed, row, 0))
        head.drawn_log_prob(model, batch, random).backward()
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                own = own_part(parameter.grad).float()
                total[name].addcmul_(own, own, value=1 / len(rows))
        model.zero_grad(set_to_none=True)
        if group.is_first:
            emit("fisher", before + int(np.searchsorted(rows, row)) + 1, before + len(rows), "rows")


def _batches(
    split: PreparedSplit, rows: Int[np.ndarray, " rows"], collate: Collator, group: Group, *, sharded: bool
) -> Iterator[tuple[int, Batch]]:
    """Yield this rank's rows, a batch each: all of them where ranks compute together, else its share."""
    for row in rows if sharded else rows[group.rank :: group.world_size]:
        yield int(row), split.batch(np.array([row]), collate)
