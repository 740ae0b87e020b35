"""A placed model written as a folder that stock transformers loads: each rank writes what it has, where it belongs.

    <run>/model/model.safetensors    as `save_pretrained` would lay it out, to the byte

The first rank makes the files as large as they will be. Each rank then writes its shards of what trained, its share of
what it has as all others do, its share of what did not train out of the start's own files, and whole some of the
matrices that an adapter is merged into, one at a time. The headers are written last: until then no file is one of
safetensors, and nothing takes it for a model. Where ranks share no folder, what the others would write travels to the
first rank, whose disk has the files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Shaped
from torch import nn
from torch.distributed.tensor import DTensor

from ftlib.kinds.loading import is_adapted
from ftlib.kinds.task_model import TaskModel, module_of
from ftlib.kinds.writing import SHARD_SIZE, save_model, save_without_weights
from ftlib.models.saved_names import never_saved
from ftlib.models.tensor_files import INDEX, TensorFile, TensorSpan, lay_out
from ftlib.models.tensor_parts import PIECE_BYTES, Elements, Source, elements_of, is_first_copy, memory_of, reading
from ftlib.models.torch_dtypes import DTYPES
from ftlib.models.unread import read_all, values_of
from ftlib.storage.files import flush_folder, local_errors
from ftlib.training.checkpoints.pieces import Target, writing, writing_together
from ftlib.training.checkpoints.shards import values, whole
from ftlib.training.group import Group, own_part

_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Plain:
    """The stock model inside a start."""

    model: nn.Module
    names: Mapping[str, str]
    """What the start calls each of its tensors; of tied ones, by the name that `named_parameters` gives."""
    merged: Mapping[str, Any]
    """By the name of a tensor that an adapter is merged into: the layer of peft that does it."""


def plain(start: nn.Module, task: str | None = None) -> Plain:
    """Take the stock model, or that of a task, out of a start.

    Where peft has wrapped it, the start is not to be used afterwards.
    """
    own = {id(tensor): name for name, tensor in reversed(_tensors(start))}  # of a tied one the first
    if isinstance(start, TaskModel) and task is not None:
        model = start.get_submodule(module_of(task))
        return Plain(model, {name: own[id(tensor)] for name, tensor in _tensors(model)}, {})
    if not is_adapted(start):
        return Plain(start, {name: own[id(tensor)] for name, tensor in _tensors(start)}, {})
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in cast(Any, start).modules() if isinstance(module, BaseTunerLayer)]
    merges = {id(p): layer for layer in layers for p in cast(Any, layer).get_base_layer().parameters(recurse=False)}
    model = cast("nn.Module", cast(Any, start).unload())
    tensors = _tensors(model)
    return Plain(
        model,
        {name: own[id(tensor)] for name, tensor in tensors},
        {name: merges[id(tensor)] for name, tensor in tensors if id(tensor) in merges},
    )


def _tensors(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]


def write_model(
    start: nn.Module,
    model: nn.Module,
    trained: Collection[str],
    group: Group,
    folder: Path,
    *,
    labels: tuple[str, ...],
    processor_from: Path,
    task: str | None = None,
) -> None:
    """Write a placed model, or its `task`, collectively, as a folder that stock transformers loads.

    The folder has nothing yet. `trained` names what is taken from the model; all else is the start's own. Of an adapter
    that is to be merged, the start has the trained values. Raises StorageError, on every rank, where one cannot write.
    """
    inside = plain(start, task)
    layout = _layout(inside.model, folder)
    if layout is None:
        _write_whole(inside, model, trained, group, folder, labels, processor_from)
        return

    def prepare() -> None:
        save_without_weights(inside.model, folder, labels, processor_from)
        make_room(layout.files)

    def write() -> None:
        with reading() as source, writing_together(group, [file.path for file in layout.files]) as target:
            _Writer(inside, model, trained, group, source, target).write(layout)

    def complete() -> None:
        if layout.index:
            (folder / INDEX).write_text(layout.index, encoding="utf-8")
        with writing() as target:
            for file in layout.files:
                target(file.path, memoryview(file.header), 0)
        flush_folder(folder)

    needed = sum(file.size for file in layout.files)
    on_first(prepare, group, folder, needed)
    group.together(lambda: _told(write, folder, needed))
    on_first(complete, group, folder, needed)


def on_first(step: Callable[[], None], group: Group, folder: Path, needed: int = 0) -> None:
    """Do what writes into a folder on the first rank while the others wait for it.

    Raises StorageError, on every rank, where the disk refuses.
    """
    group.together(lambda: _told(step, folder, needed) if group.is_first else None)


def _told(step: Callable[[], None], folder: Path, needed: int) -> None:
    with local_errors(folder, needed, elsewhere="choose another --work"):
        step()


@dataclass(frozen=True)
class _Layout:
    files: Sequence[TensorFile]
    names: Mapping[str, str]
    """What the model calls each tensor of the files."""
    index: str
    """Of several files, as JSON; of one it is empty."""


def _layout(model: Any, folder: Path) -> _Layout | None:
    """Return the files that `save_pretrained` would write; None if their tensors are not the model's one by one."""
    from huggingface_hub import split_torch_state_dict_into_shards
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    computed = never_saved(model)
    state: dict[str, torch.Tensor] = {name: t for name, t in model.state_dict().items() if name not in computed}
    own = {id(tensor): name for name, tensor in state.items()}
    saved = revert_weight_conversion(model, remove_tied_weights_from_state_dict(state, model))
    if any(id(tensor) not in own for tensor in saved.values()):
        return None
    sizes = {name: torch.empty(t.shape, dtype=t.dtype, device="meta") for name, t in saved.items()}
    split = split_torch_state_dict_into_shards(sizes, max_shard_size=SHARD_SIZE)
    files = [
        lay_out(folder / file, [_span(folder / file, name, sizes[name]) for name in names])
        for file, names in split.filename_to_tensors.items()
    ]
    metadata = {"total_parameters": model.num_parameters(), **split.metadata}
    index = json.dumps({"metadata": metadata, "weight_map": split.tensor_to_filename}, indent=2, sort_keys=True) + "\n"
    return _Layout(files, {name: own[id(t)] for name, t in saved.items()}, index if split.is_sharded else "")


def _span(path: Path, name: str, tensor: torch.Tensor) -> TensorSpan:
    return TensorSpan(name, _DTYPE_NAMES[tensor.dtype], tuple(tensor.shape), path, 0, tensor.nbytes)


def make_room(files: Sequence[TensorFile]) -> None:
    """Make files without contents: a full disk is found now, and not after the last tensor."""
    for file in files:
        with file.path.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, file.size)


class _Writer:
    """Writes one rank's part of tensors."""

    def __init__(
        self,
        inside: Plain,
        model: nn.Module,
        trained: Collection[str],
        group: Group,
        source: Source,
        target: Target,
    ) -> None:
        self._inside, self._trained, self._group, self._source, self._target = inside, trained, group, source, target
        self._start = dict(_tensors(inside.model))
        self._live = dict(_tensors(model))

    def write(self, layout: _Layout) -> None:
        """Write this rank's part of all tensors."""
        merges: dict[int, list[tuple[TensorSpan, str]]] = {}
        for span in (span for file in layout.files for span in file.spans):
            name = layout.names[span.name]
            if name in self._inside.merged:
                merges.setdefault(id(self._inside.merged[name]), []).append((span, name))
            elif self._inside.names[name] in self._trained:
                self._write_trained(span, self._live[self._inside.names[name]])
            else:
                self._write_start(span, self._start[name])
        for number, tensors in enumerate(merges.values()):
            if number % self._group.world_size == self._group.rank:
                self._write_merged(tensors)

    def _write_trained(self, span: TensorSpan, live: torch.Tensor) -> None:
        elements, own = elements_of(live), own_part(live).reshape(-1)
        if not isinstance(live, DTensor):
            elements = elements.shared_out(self._group.rank, self._group.world_size)
            own = own[elements.first : elements.first + elements.count]
        if is_first_copy(live):
            self._put(span, elements.first, own)

    def _write_start(self, span: TensorSpan, start: torch.Tensor) -> None:
        mine = Elements(0, start.numel()).shared_out(self._group.rank, self._group.world_size)
        for begin, piece in values(start, mine, self._source):
            self._put(span, begin, piece)

    def _write_merged(self, tensors: Sequence[tuple[TensorSpan, str]]) -> None:
        """Let peft merge one layer, whose weights are read for that, and write what it is then."""
        layer = self._inside.merged[tensors[0][1]]
        base: nn.Module = layer.get_base_layer()
        slots = {id(parameter): slot for slot, parameter in base.named_parameters(recurse=False)}
        with values_of(base):
            layer.merge(safe_merge=True)
            for span, name in tensors:
                self._put(span, 0, base.get_parameter(slots[id(self._start[name])]).detach().reshape(-1))

    def _put(self, span: TensorSpan, first: int, elements: Shaped[torch.Tensor, " n"]) -> None:
        dtype = DTYPES[span.dtype]
        step = PIECE_BYTES // dtype.itemsize
        for number, piece in enumerate(elements.split(step)):
            data = memory_of(piece.to("cpu", dtype).contiguous())
            self._target(span.file, data, span.offset + (first + number * step) * dtype.itemsize)


def _write_whole(
    inside: Plain,
    model: nn.Module,
    trained: Collection[str],
    group: Group,
    folder: Path,
    labels: tuple[str, ...],
    processor_from: Path,
) -> None:
    """Write a model whose files have other tensors than it has in memory, as a family's fused experts: by one rank.

    Every rank takes part, since shards are gathered; each has the whole model then.
    """
    read_all(inside.model)
    for layer in {id(layer): layer for layer in inside.merged.values()}.values():
        layer.merge(safe_merge=True)
    gathered = {inside.names[name]: tensor for name, tensor in _tensors(inside.model)}
    live = dict(_tensors(model))
    with torch.no_grad():
        for name, tensor in gathered.items():  # in an order that all ranks have: a set's differs between processes
            if name in trained:
                tensor.copy_(whole(live[name]))

    on_first(lambda: save_model(inside.model, folder, labels, processor_from), group, folder)
