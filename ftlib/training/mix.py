"""The interpolation kernel: (1 - alpha) start + alpha end, tensor by tensor, with exact ends.

- `torch.lerp` on the storage dtype computes in fp32 and rounds once; `(1 - a) * x + a * y` in bf16 gets one element
  in five wrong, and a stored delta does not reach the end at alpha 1.
- No kernel returns its ends bit for bit (-0.0, inf and overflow break all of them): alpha 0 and 1 are byte copies.
- Every alpha is computed from the two ends, never from the alpha before it: errors would add up.
- Where both ends hold the same value it is kept as it is, so a tensor that training froze is untouched.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from io import FileIO
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ftlib.artifacts import Checkpoint
from ftlib.errors import ModelError
from ftlib.training.tensor_files import DTYPES, Span, TensorFile, tensor_files, tensor_spans

CHUNK_BYTES = 1 << 20  # two inputs and an output fit the L2 cache; 4 MiB chunks cost twice the time


def check_mixable(start: Checkpoint, end: Checkpoint) -> None:
    """Check, from records and headers alone, that a line between two checkpoints means something.

    Raises ModelError that names what differs: lineage, labels, tokenizer, a fresh head, or tensors.
    """
    if end.parent != start.weights:
        raise ModelError(
            f"{end.phase!r} was not trained from {start.phase!r}: its start has digest {_short(end.parent)}, got "
            f"{_short(start.weights)}; interpolate between a phase's end and the exact weights it started from"
        )
    if start.fresh_head:
        raise ModelError(
            f"{start.phase!r} still has the random head it was made with, and a line from it means nothing; "
            "put a linear_probe phase before the one to interpolate (LP-FT)"
        )
    if start.labels != end.labels:
        raise ModelError(
            f"{start.phase!r} and {end.phase!r} have different labels, or another order: "
            f"{', '.join(start.labels)} against {', '.join(end.labels)}"
        )
    if start.tokenizer != end.tokenizer:
        raise ModelError(f"{start.phase!r} and {end.phase!r} have different tokenizers; their embeddings do not match")
    _check_tensors(start, end)


def _check_tensors(start: Checkpoint, end: Checkpoint) -> None:
    spans0, spans1 = tensor_spans(_weights(start)), tensor_spans(_weights(end))
    for here, there, owner in ((spans0, spans1, start), (spans1, spans0, end)):
        if alone := sorted(here.keys() - there.keys()):
            raise ModelError(f"{len(alone)} tensors are only in {owner.phase!r}: {_some(alone)}")
    for name, span in spans0.items():
        if span.kind != spans1[name].kind:
            raise ModelError(
                f"tensor {name!r} is {_kind(span)} in {start.phase!r} but {_kind(spans1[name])} in {end.phase!r}"
            )
    if packed := sorted(f"{name} ({span.dtype})" for name, span in spans0.items() if span.dtype not in DTYPES):
        raise ModelError(f"{len(packed)} tensors are quantised and cannot be mixed: {_some(packed)}; dequantise first")


@torch.no_grad()
def mix_into(model: nn.Module, start: Checkpoint, end: Checkpoint, alpha: float) -> None:
    """Set a model's tensors to `(1 - alpha) * start + alpha * end`, read from the two folders' files.

    Holds one tensor of each end at a time. Raises ModelError if the files do not cover the model's tensors exactly,
    or if a mixed value is not finite.
    """
    _check_alpha(alpha)
    state = model.state_dict()
    spans0, spans1 = tensor_spans(_weights(start)), tensor_spans(_weights(end))
    _check_coverage(state, spans1, end)
    with ExitStack() as stack:
        files = {
            path: stack.enter_context(safe_open(path, framework="pt"))
            for path in {span.file for span in (*spans0.values(), *spans1.values())}
        }
        for name in spans1:
            if alpha == 0.0 or alpha == 1.0:
                spans = spans0 if alpha == 0.0 else spans1
                state[name].copy_(files[spans[name].file].get_tensor(name))
                continue
            a, b = files[spans0[name].file].get_tensor(name), files[spans1[name].file].get_tensor(name)
            state[name].copy_(_mixed(name, a, b, alpha))


def write_mix(start: Checkpoint, end: Checkpoint, alpha: float, out: Path) -> None:
    """Write the model folder at alpha to `out`, which must not exist: safetensors, config and tokenizer.

    Streams 1 MiB at a time, whatever the model's size; the files have the layout of `end`. At alpha 0 and 1 every
    file is a byte copy. Raises what `check_mixable` raises before anything is written; a failure or a kill on the
    way leaves no `out`.
    """
    _check_alpha(alpha)
    if out.exists():
        raise ModelError(f"{out} exists already; a mix is written to a new folder")
    if 0.0 < alpha < 1.0:
        check_mixable(start, end)
    source = _weights(start) if alpha == 0.0 else _weights(end)
    work = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    shutil.rmtree(work, ignore_errors=True)
    try:
        shutil.copytree(source, work, ignore=shutil.ignore_patterns("*.safetensors") if 0.0 < alpha < 1.0 else None)
        if 0.0 < alpha < 1.0:
            spans0 = tensor_spans(_weights(start))
            for file in tensor_files(source):
                _stream(file, spans0, alpha, work / file.path.name)
        work.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _stream(file: TensorFile, spans0: dict[str, Span], alpha: float, out: Path) -> None:
    with ExitStack() as stack:
        target = stack.enter_context(out.open("wb", buffering=0))
        os.posix_fallocate(target.fileno(), 0, file.size)  # a full disk is found now, not after the last tensor
        target.write(file.header)
        end = stack.enter_context(file.path.open("rb", buffering=0))
        starts = {path: stack.enter_context(path.open("rb", buffering=0)) for path in {s.file for s in spans0.values()}}
        for span1 in file.spans:
            span0 = spans0[span1.name]
            target.seek(span1.offset)
            for a, b in zip(_chunks(starts[span0.file], span0), _chunks(end, span1), strict=True):
                mixed = _mixed(span1.name, a, b, alpha)
                target.write(mixed.view(torch.uint8).numpy().data)
        os.fsync(target.fileno())


def _chunks(stream: FileIO, span: Span) -> Iterator[Tensor]:
    """Yield a tensor's values, flat, `CHUNK_BYTES` at a time."""
    stream.seek(span.offset)
    left = span.bytes
    while left:
        data = bytearray(min(left, CHUNK_BYTES))
        view = memoryview(data)
        while view:  # an unbuffered read may be short
            count = stream.readinto(view)
            if not count:
                raise ModelError(f"{span.file} is cut off inside tensor {span.name!r}")
            view = view[count:]
        left -= len(data)
        yield torch.frombuffer(data, dtype=DTYPES[span.dtype])


def _mixed(name: str, a: Tensor, b: Tensor, alpha: float) -> Tensor:
    if not a.is_floating_point():
        return _integers(name, a, b)
    mixed = torch.lerp(a, b, alpha)
    torch.where(a == b, a, mixed, out=mixed)
    if not mixed.isfinite().all() and not (mixed.isfinite() | (a == b)).all():
        raise ModelError(f"tensor {name!r} is not finite at alpha {alpha:g}: one of the ends holds NaN or infinity")
    return mixed


def _integers(name: str, a: Tensor, b: Tensor) -> Tensor:
    """A counter (one value) is taken from the end; an index table must agree: integers lie on no line."""
    if a.numel() > 1 and not torch.equal(a, b):
        raise ModelError(f"tensor {name!r} holds integers that differ between the ends, so it cannot be interpolated")
    return b


def _check_coverage(state: dict[str, Tensor], spans: dict[str, Span], end: Checkpoint) -> None:
    if extra := sorted(spans.keys() - state.keys()):
        raise ModelError(f"{end.phase!r} has {len(extra)} tensors the model does not have: {_some(extra)}")
    tied = {state[name].data_ptr() for name in spans}
    bare = [name for name in state.keys() - spans.keys() if state[name].numel() and state[name].data_ptr() not in tied]
    if bare:
        raise ModelError(f"{end.phase!r} lacks {len(bare)} of the model's tensors: {_some(sorted(bare))}")


def _check_alpha(alpha: float) -> None:
    if not 0.0 <= alpha <= 1.0:
        raise ModelError(f"alpha is {alpha:g}; it must lie between 0 (start) and 1 (end)")


def _weights(checkpoint: Checkpoint) -> Path:
    return checkpoint.path / "model"


def _kind(span: Span) -> str:
    return f"{span.dtype}[{', '.join(map(str, span.shape))}]"


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _short(digest: str | None) -> str:
    return (digest or "none")[:12]
