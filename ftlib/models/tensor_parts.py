"""Parts of tensors in safetensors files, as torch's tensors: read, compared and written a piece at a time.

Nothing is mapped into memory: what is read is what is asked for, and the pages of a file are not counted as this
process's.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from jaxtyping import Shaped
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from ftlib.errors import ModelError
from ftlib.models.tensor_files import TensorSpan
from ftlib.models.torch_dtypes import DTYPES
from ftlib.storage.files import local_errors

PIECE_BYTES = 2**24
"""What is in memory at once of a file."""


@dataclass(frozen=True)
class Elements:
    """Consecutive elements of a tensor, row by row, counted from its first."""

    first: int
    count: int

    def shared_out(self, rank: int, world_size: int) -> Elements:
        """Return one rank's part of them, where all have the same."""
        begin, end = (self.count * number // world_size for number in (rank, rank + 1))
        return Elements(self.first + begin, end - begin)


def elements_of(tensor: torch.Tensor) -> Elements:
    """Return which elements of a tensor this rank has: all, or its rows of a sharded one.

    Raises ModelError for one that is sharded along another axis than its first.
    """
    if not isinstance(tensor, DTensor):
        return Elements(0, tensor.numel())
    if any(
        not isinstance(placed, Replicate | Shard) or (placed.is_shard() and placed.dim) for placed in tensor.placements
    ):
        raise ModelError(
            f"a tensor that is spread as {tensor.placements} is not read or written in parts; shard it along its first "
            "axis"
        )
    shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return Elements(offset[0] * prod(tensor.shape[1:]) if offset else 0, prod(shape))


def is_first_copy(tensor: torch.Tensor) -> bool:
    """Say whether no rank before this one has the same part of a sharded tensor: replicas of shards have each."""
    if not isinstance(tensor, DTensor):
        return True
    where = tensor.device_mesh.get_coordinate() or ()
    return not any(number for number, placed in zip(where, tensor.placements, strict=True) if placed.is_replicate())


def copies_of(tensor: torch.Tensor, world_size: int) -> int:
    """Return on how many ranks of a group each part of a tensor is."""
    if not isinstance(tensor, DTensor):
        return world_size
    sizes = zip(tensor.device_mesh.shape, tensor.placements, strict=True)
    return prod(size for size, placed in sizes if placed.is_replicate())


class Source:
    """Reads parts of tensors; files are opened once."""

    def __init__(self) -> None:
        self._open: dict[Path, int] = {}

    def close(self) -> None:
        """Close the files."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def pieces(self, span: TensorSpan, elements: Elements) -> Iterator[tuple[int, Shaped[torch.Tensor, " n"]]]:
        """Yield elements of a tensor with the index of the first, a piece at a time, in the file's own type.

        The memory is used again for the next piece. Raises ModelError where the file is shorter than its header says,
        StorageError where it cannot be read.
        """
        dtype = DTYPES[span.dtype]
        step = PIECE_BYTES // dtype.itemsize
        buffer = torch.empty(min(step, elements.count), dtype=dtype)
        for begin in range(elements.first, elements.first + elements.count, step):
            piece = buffer[: min(step, elements.first + elements.count - begin)]
            self._read(span, begin * dtype.itemsize, piece)
            yield begin, piece

    def fill(self, span: TensorSpan, elements: Elements, target: Shaped[torch.Tensor, " n"]) -> None:
        """Read elements of a tensor into memory of any type and device. Raises what `pieces` raises."""
        if target.dtype == DTYPES[span.dtype] and target.device.type == "cpu":
            self._read(span, elements.first * target.itemsize, target)
            return
        for begin, piece in self.pieces(span, elements):
            target[begin - elements.first : begin - elements.first + piece.numel()].copy_(piece)

    def _read(self, span: TensorSpan, start: int, target: Shaped[torch.Tensor, " n"]) -> None:
        view, offset = memory_of(target), span.offset + start
        while view:
            with local_errors(span.file):
                if span.file not in self._open:
                    self._open[span.file] = os.open(span.file, os.O_RDONLY)
                count = os.preadv(self._open[span.file], [view[: 2**30]], offset)
            if not count:
                raise ModelError(f"{span.file} is cut off inside tensor {span.name!r}; copy or download it again")
            view, offset = view[count:], offset + count


@contextmanager
def reading() -> Generator[Source]:
    """Give a source whose files are closed when the block ends."""
    source = Source()
    try:
        yield source
    finally:
        source.close()


def memory_of(tensor: Shaped[torch.Tensor, " n"]) -> memoryview:
    """Return the bytes of a tensor on the CPU that lies in one piece, in its own memory."""
    return tensor.view(torch.uint8).numpy().data if tensor.numel() else memoryview(b"")
