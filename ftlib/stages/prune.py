"""The base model without the layers that do least: where the first phase starts, and what it heals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ftlib.data.datasets import PreparedDataset
from ftlib.data.prepared import split_file
from ftlib.errors import DataError, ModelError
from ftlib.fingerprint import Job
from ftlib.models.checkpoint import Checkpoint, model_in
from ftlib.models.folder import config_digest, weight_files, weights_digest
from ftlib.models.pruning import PRUNING, Prune, Pruning, stack_of, write_pruned
from ftlib.progress import emit, note
from ftlib.storage.files import in_bytes
from ftlib.training.compute import Compute
from ftlib.workspace import Workspace, write_durably

if TYPE_CHECKING:
    from numpy import intp
    from numpy.typing import NDArray

    from ftlib.evaluation.block_influence import Inputs

TIMED = 64
"""Of how many of the rows both models are timed: a language model without a GPU takes minutes for more."""


class PruneJob(Job):
    """Which model loses how many layers, and the rows that its layers are measured on."""

    stage: ClassVar[str] = "prune"
    version: ClassVar[int] = 1

    start: Checkpoint
    data: PreparedDataset
    prune: Prune
    seed: int
    compute: Compute


def prune(job: PruneJob, work: Workspace) -> Checkpoint:
    """Return the checkpoint without its least influential layers, as stock transformers loads it.

    Its folder has `pruning.json` beside the model: every layer's influence. Raises RecipeError for more layers than may
    go, ModelError for a model without one stack of layers, or whose layers depend on their number, DataError for no
    rows to measure on.
    """
    return work.once(job, Checkpoint, lambda folder: _build(job, folder))


def _build(job: PruneJob, folder: Path) -> Checkpoint:
    """Measure, write what is left, prove that it answers as it should, and time both."""
    import numpy as np

    from ftlib.evaluation.block_influence import blocks_of, check_same, influences, rows_per_second
    from ftlib.evaluation.forward_pass import ROWS, resources
    from ftlib.kinds.collate import Collator
    from ftlib.kinds.loading import load
    from ftlib.kinds.open_split import open_split
    from ftlib.training.loops.batches import by_length

    source = job.start.weights_folder
    depth = stack_of(source).depth
    number = job.prune.number(depth)
    with resources(job.compute) as device:
        model = load(job.start, job.data.kind).to(device)
        split = open_split(split_file(job.data.path, "train"), job.start.labels)
        if not len(split):
            raise DataError(f"prune.dataset: {job.prune.dataset!r} has no training row to measure layers on")
        drawn = np.sort(np.random.default_rng(job.seed).permutation(len(split))[: job.prune.rows])
        collate, blocks = Collator.of(model), blocks_of(model, depth)

        def batched(rows: NDArray[intp]) -> list[Inputs]:
            return [split.batch(rows[places], collate).inputs for places in by_length(split.sizes[rows], ROWS)]

        batches = batched(drawn)
        told = influences(model, blocks, number, batches, lambda done: emit("prune", done, len(batches), "batches"))
        removed = job.prune.chosen(told.influences, told.distances)
        write_pruned(source, model_in(folder), removed)
        made = _checkpoint(job, folder)
        pruned = load(made, job.data.kind).to(device)
        check_same(model, pruned, blocks, removed, batches[0])
        timed = batched(drawn[:: max(1, len(drawn) // TIMED)])
        before, after = rows_per_second([model, pruned], timed, lambda done, of: emit("prune", done, of, "timings"))
    sizes = [sum(p.numel() for p in one.parameters()) for one in (model, pruned)]
    stored = [sum(path.stat().st_size for path in weight_files(one)) for one in (source, model_in(folder))]
    pruning = Pruning(
        removed=removed,
        influences=told.influences,
        distances=told.distances,
        rows=len(drawn),
        tokens=told.tokens,
        parameters=(sizes[0], sizes[1]),
        bytes=(stored[0], stored[1]),
        rows_per_second=(before, after),
    )
    write_durably(folder / PRUNING, pruning.model_dump_json(indent=1).encode())
    gone = " ".join(map(str, removed))
    note(
        "prune",
        f"layers {gone} of 0 to {depth - 1} are gone: {in_bytes(stored[0])} to {in_bytes(stored[1])}, "
        f"{before:,.0f} to {after:,.0f} rows/s",
    )
    facts: dict[str, float | int | str] = {
        "removed_layers": gone,
        "layers": f"{depth - len(removed)} of {depth}",
        "parameters_before": sizes[0],
        "rows_per_second_before": before,
        "rows_per_second_after": after,
    }
    return made.model_copy(update={"parameters": sizes[1], "facts": facts})


def _checkpoint(job: PruneJob, folder: Path) -> Checkpoint:
    if job.start.form == "adapter":
        raise ModelError("prune: an adapter stands on all layers of its base; start from a dense model")
    return Checkpoint(
        uri=str(folder),
        weights=weights_digest(model_in(folder)),
        parent=job.start.weights,
        tokenizer=job.start.tokenizer,
        config=config_digest(model_in(folder)),
        phase="prune",
        fresh_head=job.start.fresh_head,
        labels=job.start.labels,
        parameters=0,
        trained_parameters=0,
    )
