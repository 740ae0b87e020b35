"""The streaming engine: any number of checkpoints in, every tensor of the result out, in a few megabytes of memory.

- Every input is read by position, a chunk at a time, into buffers that are used again; 1 MiB chunks stay in the
  second-level cache, 4 MiB cost twice the time.
- Chunks are whole blocks (`ftlib.merging.methods.kernel.BLOCK`), and torch runs on one thread meanwhile: the bytes of
  the result depend on no chunk size, worker count or shard layout.
- Every result is computed from the inputs, never from another result.
- Values that are bit for bit the same in all inputs are kept as they are, so what training froze is untouched.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, local

import torch
from torch import Tensor

from ftlib.errors import IntegrityError, ModelError
from ftlib.merging.methods import Chunk, Meter
from ftlib.merging.methods.kernel import BLOCK
from ftlib.merging.plan import MergePlan, PlannedTensor, Segment
from ftlib.models.tensor_files import ITEM_BYTES, TensorSpan
from ftlib.models.torch_dtypes import DTYPES

CHUNK_BYTES = 1 << 20

Sink = Callable[[PlannedTensor, int, Tensor], None]
"""Takes a tensor's elements from the given one on; the tensor is overwritten after the call."""


@torch.no_grad()
def stream(plan: MergePlan, sink: Sink, *, chunk_bytes: int = CHUNK_BYTES, workers: int = 1) -> tuple[str, ...]:
    """Give every element of the result to `sink`: each tensor's in order, from one thread. Returns warnings.

    Raises ModelError if a value of the result is not finite, IntegrityError if a file ends too early.
    """
    with _one_torch_thread(), ExitStack() as stack:
        files = _Files(stack, plan)
        buffers = _PerThread(len(plan.inputs), max(chunk_bytes, BLOCK * 8))
        run = _Run(plan, files, buffers, chunk_bytes, sink)
        meter = run.measured(plan.tensors) if plan.kernel.scope == "model" else None
        if workers == 1:
            warnings = [run.make(planned, meter) for planned in plan.tensors]
        else:
            with ThreadPoolExecutor(workers) as pool:
                warnings = list(pool.map(lambda planned: run.make(planned, meter), plan.tensors))
        return tuple(warning for warning in warnings if warning)


@torch.no_grad()
def visit(
    plan: MergePlan, take: Callable[[PlannedTensor, Sequence[Tensor]], None], *, chunk_bytes: int = CHUNK_BYTES
) -> None:
    """Show `take` the inputs of everything that would be mixed, a chunk at a time, overwritten after a call."""
    with _one_torch_thread(), ExitStack() as stack:
        buffers = _PerThread(len(plan.inputs), max(chunk_bytes, BLOCK * 8))
        run = _Run(plan, _Files(stack, plan), buffers, chunk_bytes, lambda *_: None)
        for planned in plan.tensors:
            for tensors in run.chunks(planned):
                take(planned, tensors)


@dataclass(frozen=True)
class _Run:
    plan: MergePlan
    files: _Files
    buffers: _PerThread
    chunk_bytes: int
    sink: Sink

    def make(self, planned: PlannedTensor, meter: Meter | None) -> str | None:
        """Make one tensor; return a warning if its inputs are integers that differ."""
        if self.plan.kernel.scope == "tensor" and planned.mixes:
            meter = self.measured([planned])
        differs = False
        for segment in planned.segments:
            if segment.source is None:
                self._mix(planned, segment, meter)
            else:
                differs |= self._copy(planned, segment, segment.source)
        if differs:
            reference = self.plan.inputs[self.plan.reference].name
            return f"tensor {planned.name!r} holds {planned.dtype} values that differ; {reference!r}'s were taken"
        return None

    def measured(self, tensors: Iterable[PlannedTensor]) -> Meter:
        """Return the method's measurements of these tensors."""
        meter = self.plan.kernel.meter(len(self.plan.inputs))
        assert meter is not None
        for turn in range(meter.passes):
            for planned in tensors:
                for chunk in self.chunks(planned):
                    meter.add(turn, chunk)
            meter.close(turn)
        return meter

    def chunks(self, planned: PlannedTensor) -> Iterator[list[Tensor]]:
        """Yield the inputs of what is mixed of a tensor."""
        for segment in planned.segments:
            if segment.source is None:
                for first, last in _chunks(planned, segment, self.chunk_bytes):
                    yield self._read(planned, first, last)

    def _mix(self, planned: PlannedTensor, segment: Segment, meter: Meter | None) -> None:
        out = self.buffers.result(planned.dtype)
        for first, last in _chunks(planned, segment, self.chunk_bytes):
            tensors = self._read(planned, first, last)
            mixed = out[: last - first]
            chunk = Chunk(planned.name, self.plan.layers, first)
            self.plan.kernel.mix(chunk, tensors, meter, mixed)
            if not mixed.sum().isfinite():  # a few percent of the time that asking every value takes
                again = torch.empty(len(mixed), dtype=torch.float64)
                self.plan.kernel.mix(chunk, [tensor.double() for tensor in tensors], meter, again)
                _settle(planned.name, tensors, again, mixed)
            self.sink(planned, first, mixed)

    def _copy(self, planned: PlannedTensor, segment: Segment, source: int) -> bool:
        """Copy bytes. Returns whether the inputs differ, where that matters."""
        differs = False
        for first, last in _chunks(planned, segment, self.chunk_bytes):
            mine = self.buffers.input(source, planned.dtype, last - first)
            self.files.read(planned.spans[source], first, mine)
            if planned.compare:
                tensors = self._read(planned, first, last)
                differs |= any(not torch.equal(_bits(tensors[source]), _bits(tensor)) for tensor in tensors)
            self.sink(planned, first, mine.tensor)
        return differs

    def _read(self, planned: PlannedTensor, first: int, last: int) -> list[Tensor]:
        views = [self.buffers.input(i, span.dtype, last - first) for i, span in enumerate(planned.spans)]
        for span, view in zip(planned.spans, views, strict=True):
            self.files.read(span, first, view)
        return [view.tensor for view in views]


def _chunks(planned: PlannedTensor, segment: Segment, chunk_bytes: int) -> Iterator[tuple[int, int]]:
    step = max(1, chunk_bytes // ITEM_BYTES[planned.dtype] // BLOCK) * BLOCK
    for first in range(segment.first, segment.last, step):
        yield first, min(first + step, segment.last)


def _settle(name: str, tensors: Sequence[Tensor], again: Tensor, out: Tensor) -> None:
    """Keep what is the same everywhere; what is not finite besides is an input's fault, or too large for its type."""
    same = torch.stack([_bits(tensor) == _bits(tensors[0]) for tensor in tensors]).all(dim=0)
    # Element by element: what was fine stays as it is, or the bytes would depend on a chunk's other elements.
    out.copy_(torch.where(same, tensors[0], torch.where(out.isfinite(), out, again.to(out.dtype))))
    if not (out.isfinite() | same).all():
        raise ModelError(
            f"tensor {name!r} would not be finite: an input holds NaN or infinity there, or the result exceeds "
            f"{str(out.dtype).removeprefix('torch.')}; that training broke, or the scale is too large"
        )


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _bits(tensor: Tensor) -> Tensor:
    return tensor.view(_INTEGERS[tensor.element_size()])


@dataclass(frozen=True)
class _View:
    """Part of a buffer, as the bytes to read into and as the tensor they are."""

    bytes: memoryview
    tensor: Tensor


class _PerThread(local):
    """Each worker's buffers: one per input and one for the result, made once."""

    def __init__(self, inputs: int, size: int) -> None:
        self._size = size
        self._inputs = [bytearray(size) for _ in range(inputs)]
        self._result = bytearray(size)
        self._tensors: dict[tuple[int, str], Tensor] = {}

    def input(self, index: int, dtype: str, elements: int) -> _View:
        """Return room for an input's elements."""
        tensor = self._typed(index, self._inputs[index], dtype)
        return _View(memoryview(self._inputs[index])[: elements * tensor.element_size()], tensor[:elements])

    def result(self, dtype: str) -> Tensor:
        """Return room for a chunk of the result."""
        return self._typed(-1, self._result, dtype)

    def _typed(self, index: int, buffer: bytearray, dtype: str) -> Tensor:
        if (index, dtype) not in self._tensors:
            self._tensors[index, dtype] = torch.frombuffer(buffer, dtype=DTYPES[dtype])
        return self._tensors[index, dtype]


class _Files:
    """Every input file, open once; reads name their position, so workers share them."""

    def __init__(self, stack: ExitStack, plan: MergePlan) -> None:
        self._descriptors: dict[Path, int] = {}
        for path in sorted({span.file for planned in plan.tensors for span in planned.spans}):
            self._descriptors[path] = os.open(path, os.O_RDONLY)
            stack.callback(os.close, self._descriptors[path])

    def read(self, span: TensorSpan, first: int, view: _View) -> None:
        """Fill a view with the span's elements from `first` on."""
        offset, left = span.offset + first * view.tensor.element_size(), view.bytes
        while left:  # a read may be short
            count = os.preadv(self._descriptors[span.file], [left], offset)
            if not count:
                raise IntegrityError(f"{span.file} is cut off inside tensor {span.name!r}; copy or download it again")
            left, offset = left[count:], offset + count


_threads_lock = Lock()


@contextmanager
def _one_torch_thread() -> Generator[None]:
    """Run torch on one thread: a chunk is so small that waking others costs more than the work (libgomp spins)."""
    with _threads_lock:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)
