"""A candidate's weights: checked, put into a model in memory, or written as a model folder, all by one engine."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor, nn

from ftlib.errors import ModelError
from ftlib.merging.adapter_points import check_point, write_point
from ftlib.merging.batch_norm import unmixed, with_statistics
from ftlib.merging.candidates import Candidate
from ftlib.merging.engine import stream
from ftlib.merging.files import Merged, write_merge
from ftlib.merging.methods import Average
from ftlib.merging.plan import Input, MergePlan, PlannedTensor, plan_merge
from ftlib.merging.recorded import check_lineage
from ftlib.models.adapter import WEIGHTS, adapter_digest
from ftlib.models.checkpoint import Base, Checkpoint
from ftlib.models.saved_names import saved_names
from ftlib.models.tensor_files import read_header
from ftlib.wording import some

log = logging.getLogger(__name__)


def check_candidate(candidate: Candidate) -> None:
    """Check, from records and headers alone, that a candidate's weights mean something.

    Raises ModelError that names what differs: lineage, labels, tokenizer, a fresh head, or tensors.
    """
    if candidate.merge is not None:
        tuned = (candidate.end, *candidate.siblings)
        check_lineage(candidate.start, tuned[: len(tuned) - candidate.merge.strangers])
    if candidate.end.form == "adapter":
        check_point(candidate)
    else:
        _plan(candidate, candidate.parts)


def mix_into(model: nn.Module, candidate: Candidate, to_measure: Collection[str] = ()) -> None:
    """Set a model's tensors to the candidate's, computed from its checkpoints' files as `write_candidate` does.

    BatchNorm layers that are `to_measure` get their weights alone: running statistics that nobody mixes take no part in
    what a merge method counts over the whole model, or the weights would be others than those that are written. Values
    are rounded as they are stored, whatever the model computes in: what is measured is what is served. Raises
    ModelError if the files do not cover the model's tensors exactly, or if a value is not finite.
    """
    plan = unmixed(_plan_made(candidate), to_measure)
    own = model.state_dict()
    state = {saved: own[name] for name, saved in saved_names(model).items()}
    _check_coverage(state, plan)

    def put(planned: PlannedTensor, first: int, values: Tensor) -> None:
        if not planned.mixes and not (values.sum().isfinite() or values.isfinite().all()):
            raise ModelError(
                f"{candidate.name!r}: tensor {planned.name!r} holds NaN or infinity: the training that made it "
                "broke, or the file is damaged; give another checkpoint"
            )
        state[planned.name].view(-1)[first : first + len(values)].copy_(values)

    with torch.no_grad():
        _note(stream(plan, put))


def write_candidate(candidate: Candidate, out: Path, base: Base | None = None) -> Merged:
    """Write a candidate's model folder: safetensors, config and tokenizer; see `write_merge`.

    At alpha 0 and 1 every file is a byte copy of that end's. Where the end is an adapter it is an adapter's folder,
    over `base`, or over what the end stands on.
    """
    if candidate.merge is not None:
        check_candidate(candidate)
    if stands_on := base or candidate.end.base:
        write_point(candidate, out, stands_on)
        spans = read_header(out / WEIGHTS).spans
        return Merged(
            folder=str(out.absolute()),
            files=tuple(sorted(path.name for path in out.iterdir())),
            tensors=len(spans),
            copied=0 if candidate.mixes else len(spans),
            bytes=(out / WEIGHTS).stat().st_size,
            weights=adapter_digest(out, stands_on),
            warnings=(),
        )
    merged = write_merge(_plan_made(candidate), out)
    _note(merged.warnings)
    return merged


def _plan_made(candidate: Candidate) -> MergePlan:
    """Plan a candidate; what is a copy of one checkpoint is read from that one alone, with its own layout."""
    parts = candidate.parts
    source = 0 if candidate.merge is None else candidate.merge.whole_copy()
    if source is None:
        plan = _plan(candidate, parts)
        return with_statistics(plan, candidate.statistics) if candidate.statistics else plan
    return plan_merge(Average(ingredients=(0,)), [_input(parts[source])], reference=0)


def _plan(candidate: Candidate, parts: tuple[Checkpoint, ...]) -> MergePlan:
    ends = [i for i, part in enumerate(parts) if part.weights == candidate.end.weights]
    kernel = candidate.merge or Average(ingredients=(0,))
    return plan_merge(kernel, [_input(part) for part in parts], reference=ends[0] if ends else 0)


def _input(checkpoint: Checkpoint) -> Input:
    return Input(checkpoint.phase, checkpoint.weights_folder)


def _check_coverage(state: dict[str, Tensor], plan: MergePlan) -> None:
    names = {planned.name for planned in plan.tensors}
    owner = plan.inputs[plan.reference].name
    if extra := sorted(names - state.keys()):
        raise ModelError(
            f"{owner!r} has {len(extra)} tensors the model does not have: {some(extra)}; give a fine-tune of it"
        )
    tied = {state[name].data_ptr() for name in names}
    bare = [name for name in state.keys() - names if state[name].numel() and state[name].data_ptr() not in tied]
    if bare:
        raise ModelError(
            f"{owner!r} lacks {len(bare)} of the model's tensors: {some(sorted(bare))}; save it again, whole"
        )


def _note(warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        log.warning("%s", warning)
