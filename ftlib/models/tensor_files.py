"""Where each tensor lies in a safetensors file, there already or to be written, without torch.

Format: https://github.com/huggingface/safetensors#format. Knowing offsets before any data is read is what lets two
checkpoints be compared in milliseconds and mixed in a few megabytes of memory. A header that passes here is one that
the format's own library opens: damage is told before a model is loaded, by name, and never as that library's error.
"""

from __future__ import annotations

import itertools
import json
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, cast

from ftlib.errors import ModelError

SINGLE = "model.safetensors"
"""The file of a model folder whose weights are in one."""
INDEX = "model.safetensors.index.json"
"""The file that says which tensor is in which of several."""
FLOATING = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes of an element, by the format's name of its type: these can be mixed."""
ITEM_BYTES = {**FLOATING, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
"""The same of every type that is read."""
PACKED = {"F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F6_E2M3", "F6_E3M2", "F4"} | {
    "U16",
    "U32",
    "U64",
    "C64",
}
"""Types that the format knows besides: of quantised weights, which are refused by that name."""
_LARGEST_HEADER = 100_000_000  # the format's own limit
_MISTAKEN = (
    (b"version https://git-lfs", "a git-lfs pointer, not the weights: run `git lfs pull` in its checkout"),
    (b"/annex/objects/", "a git-annex pointer, not the weights: run `git annex get`"),
    (b"PK\x03\x04", "a zip archive or a pickle of torch, which is never opened: convert it to safetensors"),
    (b"\x80\x02", "a pickle, which is never opened: convert it to safetensors"),
    (b"\x1f\x8b", "compressed with gzip: unpack it"),
    (b"GGUF", "a GGUF file: give the model in safetensors"),
    (b"<", "a web page, not the weights: download the file again"),
)
"""First bytes of what is found under a name that ends in .safetensors."""


@dataclass(frozen=True)
class TensorSpan:
    """One tensor's place: `bytes` bytes at `offset` of `file`, counted from the file's first byte."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    bytes: int


@dataclass(frozen=True)
class TensorFile:
    """One safetensors file, read or to be written: its header as bytes, and its tensors in the order they lie in."""

    path: Path
    header: bytes
    spans: tuple[TensorSpan, ...]
    size: int


def read_header(path: Path) -> TensorFile:
    """Read the header of a safetensors file and compare it with the file's size.

    Raises ModelError, saying what the file is instead where that can be told, for one that is cut off, longer than its
    header says, or no safetensors file.
    """
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            prefix = stream.read(8)
            claimed = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            header = prefix + (stream.read(claimed) if claimed <= min(size, _LARGEST_HEADER) else stream.read(64))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}; give a folder whose files can be read") from error
    if mistaken := _mistaken(header, size):
        raise ModelError(f"{path} is {mistaken}")
    if not 0 < claimed <= _LARGEST_HEADER:
        raise ModelError(f"{path} is not a safetensors file: its header claims {claimed} bytes; save it again")
    if len(header) < 8 + claimed:
        raise ModelError(
            f"{path} is cut off inside its header, which needs {8 + claimed} bytes: {_has(size)}; copy or download it "
            "again"
        )
    spans = _spans(path, header)
    end = max((span.offset + span.bytes for span in spans), default=len(header))
    if size < end:
        raise ModelError(f"{path} is cut off: {_has(size)}, its header needs {end}; copy or download it again")
    if size > end:
        raise ModelError(f"{path} is damaged: {_has(size)}, its header accounts for {end}; copy or download it again")
    return TensorFile(path, header, spans, end)


def _has(size: int) -> str:
    return f"it has {size} bytes"


def _mistaken(head: bytes, size: int) -> str | None:
    if not size:
        return "empty (0 bytes): copy or download it again"
    if head[8:9] == b"{":  # the first eight bytes are a length, which may spell anything
        return None
    return next((what for magic, what in _MISTAKEN if head.startswith(magic)), None)


def _spans(path: Path, header: bytes) -> tuple[TensorSpan, ...]:
    try:
        entries = cast("dict[str, dict[str, Any]]", json.loads(header[8:], object_pairs_hook=_once))
        entries.pop("__metadata__", None)
        spans = [_span(path, name, entry, len(header)) for name, entry in entries.items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problem = str(error) if isinstance(error, ValueError) else repr(error)
        raise ModelError(f"{path} is not a safetensors file: {problem}; save it again") from error
    spans.sort(key=lambda span: (span.offset, span.offset + span.bytes, span.name))
    ends = [len(header), *(span.offset + span.bytes for span in spans)]
    for span, end in zip(spans, ends, strict=False):
        if span.offset != end:
            how = "overlaps the one before it" if span.offset < end else f"leaves {span.offset - end} bytes before it"
            raise ModelError(f"{path} is damaged: tensor {span.name!r} {how}; save it again")
    return tuple(spans)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is in its header twice")
    return members


def _span(path: Path, name: str, entry: dict[str, Any], data_start: int) -> TensorSpan:
    dtype, (first, last) = entry["dtype"], entry["data_offsets"]
    shape = tuple(entry["shape"])
    if any(type(number) is not int or number < 0 for number in (first, last, *shape)) or last < first:
        raise ValueError(f"tensor {name!r} has shape {[*shape]} at bytes {first} to {last}")
    if dtype not in ITEM_BYTES and dtype not in PACKED:
        raise ValueError(f"tensor {name!r} has the unknown dtype {dtype!r}")
    span = TensorSpan(name, dtype, shape, path, data_start + first, last - first)
    if dtype in ITEM_BYTES and span.bytes != ITEM_BYTES[dtype] * prod(shape):
        raise ValueError(f"tensor {name!r} has {span.bytes} bytes, its shape needs {ITEM_BYTES[dtype] * prod(shape)}")
    return span


def read_tensors(path: Path) -> Iterator[tuple[TensorSpan, memoryview]]:
    """Yield every tensor of a safetensors file with its bytes, one in memory at a time.

    Raises what `read_header` raises.
    """
    spans = read_header(path).spans
    with path.open("rb") as stream:
        for span in spans:
            stream.seek(span.offset)
            data = stream.read(span.bytes)
            if len(data) != span.bytes:
                raise ModelError(f"{path} is cut off inside tensor {span.name!r}; copy or download it again")
            yield span, memoryview(data)


def only_once(files: Sequence[TensorFile]) -> dict[str, TensorSpan]:
    """Return the tensors of several files by name, in their order. Raises ModelError for one that two files have."""
    by_name: dict[str, TensorSpan] = {}
    for span in (span for file in files for span in file.spans):
        if span.name in by_name:
            raise ModelError(
                f"tensor {span.name!r} is in two files, {by_name[span.name].file} and {span.file.name}; remove one"
            )
        by_name[span.name] = span
    return by_name


def lay_out(path: Path, spans: Sequence[TensorSpan]) -> TensorFile:
    """Return the file at `path` that holds copies of these tensors, with none of the bytes written."""
    # The widest elements first, as the format's own writer does, so that every tensor is aligned to its own size.
    ordered = sorted(spans, key=lambda span: (-ITEM_BYTES.get(span.dtype, 0), span.name))
    ends = list(itertools.accumulate(span.bytes for span in ordered))
    entries = {
        span.name: {"dtype": span.dtype, "shape": span.shape, "data_offsets": [end - span.bytes, end]}
        for span, end in zip(ordered, ends, strict=True)
    }
    header = json.dumps(
        {"__metadata__": {"format": "pt"}, **entries}, separators=(",", ":"), ensure_ascii=False
    ).encode()
    header += b" " * (-len(header) % 8)
    header = struct.pack("<Q", len(header)) + header
    placed = (
        replace(span, file=path, offset=len(header) + end - span.bytes) for span, end in zip(ordered, ends, strict=True)
    )
    return TensorFile(path, header, tuple(placed), len(header) + (ends[-1] if ends else 0))


def shard_names(count: int) -> list[str]:
    """Return what the files of a model in `count` shards are called, as transformers calls them."""
    return [SINGLE] if count == 1 else [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]


def index_of(files: Sequence[TensorFile]) -> str:
    """Return transformers' index of several files, as JSON."""
    spans = [span for file in files for span in file.spans]
    names = {span.name: span.file.name for span in spans}
    total = sum(span.bytes for span in spans)
    return json.dumps({"metadata": {"total_size": total}, "weight_map": dict(sorted(names.items()))}, indent=2)
