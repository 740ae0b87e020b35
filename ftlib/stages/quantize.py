"""A checkpoint to the same with its linear layers rounded to four bits: what a quantised adapter is trained over."""

from __future__ import annotations

from dataclasses import replace
from math import prod, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ftlib.config import BatchKind
from ftlib.errors import ModelError
from ftlib.fingerprint import Job
from ftlib.models.checkpoint import Checkpoint, Quantization, model_in
from ftlib.models.folder import config_digest, weight_files, weights_digest
from ftlib.models.tensor_files import INDEX, lay_out, read_header
from ftlib.workspace import Workspace

if TYPE_CHECKING:
    from torch import nn


class QuantizeJob(Job):
    """Which checkpoint, and how its layers are rounded."""

    stage: ClassVar[str] = "quantize"
    version: ClassVar[int] = 1

    start: Checkpoint
    kind: BatchKind
    """Says which class of model it is, and so which layers are its head."""
    quantization: Quantization


def quantize(job: QuantizeJob, work: Workspace) -> Checkpoint:
    """Return the checkpoint rounded to four bits and back, in fp32, with the four bits beside it.

    It is where the phase starts: its theta0, and what an adapter is merged into. One matrix is in memory at a time, and
    the four bits of all. Raises ModelError for a model whose layers are not its files' tensors one by one.
    """
    return work.once(job, Checkpoint, lambda folder: _build(job, folder))


def _build(job: QuantizeJob, folder: Path) -> Checkpoint:
    from ftlib.kinds.loading import load_unread

    target = model_in(folder)
    facts = write_rounded(load_unread(job.start, job.kind), job.start.folder, job.quantization, target)
    return Checkpoint(
        weights=weights_digest(target),
        parent=job.start.weights,
        tokenizer=job.start.tokenizer,
        config=config_digest(target),
        phase=f"{job.start.phase}-4bit",
        fresh_head=job.start.fresh_head,
        labels=job.start.labels,
        parameters=job.start.parameters,
        trained_parameters=0,
        facts=facts,
    )


def write_rounded(
    model: nn.Module, source: Path, quantization: Quantization, target: Path
) -> dict[str, float | int | str]:
    """Write the folder of a model that is unread as `target`, its weights rounded, and the four bits beside it.

    Returns how many weights were rounded, and how far off they are: the root of the sum of squares, over that of the
    weights. Raises what `quantize` raises.
    """
    from safetensors.torch import save_file

    from ftlib.kinds.loading import head_modules
    from ftlib.kinds.writing import copy_beside
    from ftlib.models.four_bits import FILE, FourBits, layers_to_quantize, written
    from ftlib.models.tensor_parts import memory_of
    from ftlib.models.unread import Unread, read_whole

    layers = layers_to_quantize(model, head_modules(model))
    if any(not isinstance(layer.weight, Unread) for layer in layers.values()):
        raise ModelError(
            f"{source}: the layers of {type(model).__name__} are not its files' tensors one by one, and cannot "
            "be rounded to four bits; use lora"
        )
    names = {layer.weight.span.name: name for name, layer in layers.items() if isinstance(layer.weight, Unread)}
    target.mkdir(parents=True)
    copy_beside(source, target)
    held: dict[str, FourBits] = {}
    off = size = 0.0
    for path in weight_files(source):
        sources = {span.name: span for span in read_header(path).spans}
        spans = [replace(s, dtype="F32", bytes=4 * prod(s.shape)) if s.name in names else s for s in sources.values()]
        file = lay_out(target / path.name, spans)
        with file.path.open("wb") as stream:
            stream.write(file.header)
            for span in file.spans:
                values = read_whole(sources[span.name])
                if span.name in names:
                    before = values.float()
                    one = held[names[span.name]] = FourBits.of(before, quantization)
                    values = one.values()
                    off += float((values - before).double().square().sum())
                    size += float(before.double().square().sum())
                stream.write(memory_of(values.contiguous().view(-1)))
    if (index := source / INDEX).is_file():
        (target / INDEX).write_bytes(index.read_bytes())
    save_file(written(held), target.parent / FILE)
    rounded, taken = sum(prod(one.shape) for one in held.values()), sum(t.nbytes for t in written(held).values())
    return {
        "rounded_parameters": rounded,
        "bits_of_a_rounded_parameter": round(8 * taken / rounded, 4),
        "relative_error_of_rounding": sqrt(off / size) if size else 0.0,
    }
