"""What each rank writes of tensors that are spread over a group, and how any number of ranks reads it again.

A part is a safetensors file with one rank's regions: its shards of what is sharded, and its share of what every rank
has. Which regions those are is in a JSON file beside it. So parts of two ranks are read by one rank, or by four.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from ftlib.errors import IntegrityError
from ftlib.models.tensor_files import TensorSpan, lay_out, read_header
from ftlib.models.tensor_parts import PIECE_BYTES, is_first_copy, memory_of
from ftlib.models.torch_dtypes import DTYPES
from ftlib.storage.files import appearing, flush
from ftlib.training.group import own_part

_NAMES = {dtype: name for name, dtype in DTYPES.items()}

Place = tuple[int, torch.dtype, tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Region:
    """A block of a tensor: where it begins in the whole, and how far it goes."""

    whole: tuple[int, ...]
    offset: tuple[int, ...]
    shape: tuple[int, ...]

    def overlap(self, other: Region) -> Region | None:
        """Return what both have; None if that is nothing."""
        first = tuple(max(a, b) for a, b in zip(self.offset, other.offset, strict=True))
        ends = zip(first, self._ends(), other._ends(), strict=True)
        shape = tuple(min(a, b) - start for start, a, b in ends)
        return Region(self.whole, first, shape) if all(size > 0 for size in shape) else None

    def _ends(self) -> tuple[int, ...]:
        return tuple(start + size for start, size in zip(self.offset, self.shape, strict=True))

    def of(self, tensor: torch.Tensor, within: Region) -> torch.Tensor:
        """Return this block of the tensor that holds the region `within`, in the same memory."""
        for axis, (first, size) in enumerate(zip(self.offset, self.shape, strict=True)):
            tensor = tensor.narrow(axis, first - within.offset[axis], size)
        return tensor


def region(tensor: torch.Tensor) -> Region:
    """Return what this rank has of a tensor."""
    whole = tuple(tensor.shape)
    if not isinstance(tensor, DTensor):
        return Region(whole, (0,) * len(whole), whole)
    shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return Region(whole, tuple(offset), tuple(shape))


def once(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors without those that are another one by a second name: tied weights."""
    kept: dict[Place | str, str] = {}
    for name, tensor in tensors.items():
        kept.setdefault(place(tensor) or name, name)
    return {name: tensors[name] for name in kept.values()}


def place(tensor: torch.Tensor) -> Place | None:
    """Return where this rank's part of a tensor lies in memory, the same for two names of it; None if it is empty."""
    own = own_part(tensor)
    return (own.data_ptr(), own.dtype, tuple(own.shape), own.stride()) if own.numel() else None


def own_share(tensors: Mapping[str, torch.Tensor], rank: int, world_size: int) -> dict[str, torch.Tensor]:
    """Return the tensors of which this rank writes its region, so that all ranks write each byte once, and as much.

    What every rank has, the one with the least so far writes: all of them come to the same without asking.
    """
    mine: dict[str, torch.Tensor] = {}
    replicated = {name: tensor for name, tensor in tensors.items() if not isinstance(tensor, DTensor)}
    loads = [0] * world_size
    for name, tensor in sorted(replicated.items(), key=lambda item: (-item[1].nbytes, item[0])):
        least = loads.index(min(loads))
        loads[least] += tensor.nbytes
        if least == rank:
            mine[name] = tensor
    for name, tensor in tensors.items():
        if isinstance(tensor, DTensor) and is_first_copy(tensor):
            mine[name] = tensor
    return {name: tensor for name, tensor in mine.items() if own_part(tensor).numel()}


def write_part(
    path: Path, tensors: Mapping[str, torch.Tensor], heard: Callable[[memoryview | bytes], None] = lambda data: None
) -> str:
    """Write this rank's tensors as safetensors, whole or not at all, and return the file's sha256, in one pass.

    A tensor that is not the host's is copied there when it is written, one at a time. `heard` hears the bytes in order.
    """
    spans = [TensorSpan(name, _NAMES[t.dtype], tuple(t.shape), path, 0, t.nbytes) for name, t in tensors.items()]
    file = lay_out(path, spans)
    running = hashlib.sha256(file.header)
    with appearing(path) as stream:
        stream.write(file.header)
        heard(file.header)
        for span in file.spans:
            data = memory_of(tensors[span.name].detach().cpu().contiguous().reshape(-1))
            for first in range(0, len(data), PIECE_BYTES):
                chunk = data[first : first + PIECE_BYTES]
                running.update(chunk)
                stream.write(chunk)
                heard(chunk)
        flush(stream)
    return running.hexdigest()


def regions_as_json(regions: Mapping[str, Region]) -> dict[str, list[list[int]]]:
    """Return regions as JSON has them: whole, offset and shape by name."""
    return {name: [[*one.whole], [*one.offset], [*one.shape]] for name, one in regions.items()}


def read_parts(parts: Iterable[Path], described: Iterable[Path]) -> Parts:
    """Return what lies in these parts, by what the files beside them say; no tensor is read."""
    pieces: dict[str, list[Piece]] = {}
    for path, description in zip(parts, described, strict=True):
        regions = json.loads(description.read_bytes())["regions"]
        for span in read_header(path).spans:
            whole, offset, shape = (tuple(numbers) for numbers in regions[span.name])
            pieces.setdefault(span.name, []).append(Piece(span, Region(whole, offset, shape)))
    return Parts(pieces)


@dataclass(frozen=True)
class Piece:
    """A region of a tensor in a file."""

    span: TensorSpan
    region: Region

    def rows(self, wanted: Region) -> tuple[Region, int, int]:
        """Return what is read for a block of it, only whole rows; and where that lies in the file, and its bytes."""
        has = self.region
        rows = Region(has.whole, wanted.offset[:1] + has.offset[1:], wanted.shape[:1] + has.shape[1:])
        row = prod(has.shape[1:]) * DTYPES[self.span.dtype].itemsize
        before = rows.offset[0] - has.offset[0] if has.shape else 0
        return rows, self.span.offset + before * row, prod(rows.shape) * DTYPES[self.span.dtype].itemsize


class Parts:
    """All ranks' parts of a set of tensors."""

    def __init__(self, pieces: Mapping[str, Sequence[Piece]]) -> None:
        """Take the pieces of each tensor, by name."""
        self._pieces = pieces

    @torch.no_grad()
    def fill(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Fill this rank's regions of tensors in place, one piece in memory at a time.

        Raises IntegrityError where the parts lack something, or have it in another shape or type.
        """
        for name, tensor in tensors.items():
            own, wanted = own_part(tensor), region(tensor)
            missing = own.numel()
            for piece in self._pieces.get(name, ()):
                if piece.region.whole != wanted.whole or DTYPES[piece.span.dtype] != own.dtype:
                    raise IntegrityError(
                        f"{piece.span.file} has {name} as {piece.span.dtype} {list(piece.region.whole)}, this training "
                        f"has it as {_NAMES.get(own.dtype, own.dtype)} {list(wanted.whole)}; delete "
                        f"{piece.span.file.parent} to train without it"
                    )
                if overlap := wanted.overlap(piece.region):
                    overlap.of(own, wanted).copy_(_read(piece, overlap))
                    missing -= prod(overlap.shape)
            if missing:
                raise IntegrityError(
                    f"{missing} numbers of {name} are in no part of the checkpoint; delete it to go on from "
                    "the one before"
                )


def _read(piece: Piece, wanted: Region) -> torch.Tensor:
    """Read a block of a piece: only its rows, where it takes them whole."""
    span = piece.span
    rows, begin, _ = piece.rows(wanted)
    block = torch.empty(rows.shape, dtype=DTYPES[span.dtype])
    with span.file.open("rb") as stream:
        stream.seek(begin)
        data = memory_of(block.reshape(-1))
        if stream.readinto(data) != len(data):
            raise IntegrityError(f"{span.file} is cut off inside {span.name}; delete {span.file.parent}")
    return wanted.of(block, rows)
