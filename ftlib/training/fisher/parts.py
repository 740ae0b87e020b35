"""The file of a Fisher information, of which each rank reads and writes the part that belongs to its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from ftlib.errors import ModelError
from ftlib.models.tensor_files import TensorSpan, lay_out, read_header
from ftlib.models.tensor_parts import elements_of, is_first_copy, memory_of, reading
from ftlib.training.checkpoints.pieces import writing, writing_together
from ftlib.training.checkpoints.saving import make_room, on_first
from ftlib.training.group import Group, own_part


def read_parts(file: Path, parameters: Mapping[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    """Return this rank's part of F for each parameter, in the shape of its own part and where that is.

    Raises ModelError for a parameter that the file does not have, or has in another shape.
    """
    spans = {span.name: span for span in read_header(file).spans}
    for name, parameter in parameters.items():
        has = spans[name].shape if name in spans else None
        if has != tuple(parameter.shape):
            told = "none" if has is None else f"one of {_shape(has)}"
            raise ModelError(
                f"{file}: the Fisher information is of another model: parameter {name} is {_shape(parameter.shape)}, "
                f"and it has {told} for it; name the datasets to measure it on, or start from the model that it is of"
            )
    read: dict[str, torch.Tensor] = {}
    with reading() as source:
        for name, parameter in parameters.items():
            own = torch.empty_like(own_part(parameter), dtype=torch.float32, memory_format=torch.contiguous_format)
            source.fill(spans[name], elements_of(parameter), own.view(-1))
            read[name] = own
    return read


def _shape(shape: tuple[int, ...] | torch.Size) -> str:
    return " x ".join(map(str, shape)) or "a number"


def write_parts(file: Path, parts: Mapping[str, torch.Tensor], like: Mapping[str, nn.Parameter], group: Group) -> None:
    """Write F collectively: the header last, so that no file is one of safetensors until all ranks are done.

    `parts` are of this rank's own parts of the parameters in `like`. Raises StorageError, on every rank, where one
    cannot write.
    """
    spans = [TensorSpan(n, "F32", tuple(p.shape), file, 0, 4 * p.numel()) for n, p in like.items()]
    layout = lay_out(file, spans)

    def write() -> None:
        with writing_together(group, [file]) as target:
            for span in layout.spans:
                parameter = like[span.name]
                if is_first_copy(parameter) and (group.is_first or _is_sharded(parameter)):
                    own = parts[span.name].to("cpu").contiguous().view(-1)
                    target(file, memory_of(own), span.offset + 4 * elements_of(parameter).first)

    def complete() -> None:
        with writing() as target:
            target(file, memoryview(layout.header), 0)

    on_first(lambda: make_room([layout]), group, file.parent, layout.size)
    group.together(write)
    on_first(complete, group, file.parent, layout.size)


def _is_sharded(parameter: nn.Parameter) -> bool:
    return own_part(parameter).numel() != parameter.numel()
