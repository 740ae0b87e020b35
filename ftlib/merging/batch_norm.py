"""BatchNorm's running statistics: which tensors of a model they are, and those measured again for a mix of models.

A mix of two models' running means and variances is not the mean and variance of what the mixed weights compute, least
of all between models trained apart, whose activations shrink on the way (Jordan et al. 2023, arXiv 2211.08403).
`ftlib.evaluation.batch_norm` measures them; here they are named, kept and put in the mix's place. No torch.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from typing_extensions import override

from ftlib.errors import IntegrityError
from ftlib.fingerprint import Identified, file_digest
from ftlib.merging.plan import MergePlan, PlannedTensor, Segment
from ftlib.models.folder import tensor_spans
from ftlib.models.parameter_names import BATCHES_SEEN
from ftlib.models.tensor_files import TensorSpan, read_header
from ftlib.storage.node_cache import local_path

RUNNING = ("running_mean", "running_var")


class Statistics(Identified):
    """The running statistics of one candidate, measured on training rows: a safetensors file."""

    sha256: str
    """Of the file's bytes."""
    layers: int
    """BatchNorm layers that were measured."""
    rows: int
    """Training rows that they were measured on."""
    uri: str = ""
    """The file; not part of the identity."""

    @override
    def digest(self) -> str:
        return self.sha256


def has_batch_norm(folder: Path) -> bool:
    """Say, from headers, whether a dense model has layers that keep running statistics while they train."""
    return any(name.endswith(BATCHES_SEEN) for name in tensor_spans(folder))


def moved_layers(folders: Sequence[Path]) -> tuple[str, ...]:
    """Return the BatchNorm layers whose running statistics differ between dense models, in the first one's order.

    A layer with the same numbers bit for bit in all of them was frozen: they are constants that the weights were
    trained against, and no estimate of what a model computes.
    """
    spans = [tensor_spans(folder) for folder in folders]
    layers = [name.removesuffix(BATCHES_SEEN) for name in spans[0] if name.endswith(BATCHES_SEEN)]

    def differs(layer: str) -> bool:
        return any(len({_bytes(each[f"{layer}.{name}"]) for each in spans}) > 1 for name in RUNNING)

    return tuple(layer for layer in layers if differs(layer))


def unmixed(plan: MergePlan, layers: Collection[str]) -> MergePlan:
    """Return the plan of a merge that leaves these layers' running statistics as the reference has them."""
    names = {f"{layer}.{name}" for layer in layers for name in RUNNING}

    def copied(tensor: PlannedTensor) -> PlannedTensor:
        whole = Segment(0, tensor.elements, plan.reference)
        return replace(tensor, segments=(whole,)) if tensor.name in names else tensor

    return replace(plan, tensors=tuple(map(copied, plan.tensors)))


def with_statistics(plan: MergePlan, statistics: Statistics) -> MergePlan:
    """Return the plan of a merge that has measured statistics in place of mixed ones.

    Raises IntegrityError if their file is not the one that was written.
    """
    file = local_path(statistics.uri)
    try:
        sound = file_digest(file) == statistics.sha256
    except OSError:
        sound = False
    if not sound:
        raise IntegrityError(
            f"{file} is not there as it was written, and holds the BatchNorm statistics of a candidate: delete "
            f"{file.parent} and run again"
        )
    measured = {span.name: span for span in read_header(file).spans}

    def given(tensor: PlannedTensor) -> PlannedTensor:
        span = measured.get(tensor.name)
        return tensor if span is None else replace(tensor, spans=(span,), segments=(Segment(0, tensor.elements, 0),))

    return replace(plan, tensors=tuple(map(given, plan.tensors)))


def _bytes(span: TensorSpan) -> bytes:
    with span.file.open("rb") as stream:
        stream.seek(span.offset)
        return stream.read(span.bytes)
