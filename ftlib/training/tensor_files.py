"""Where each tensor lies in a folder of safetensors, read from the headers alone.

Format: https://github.com/huggingface/safetensors#format. Knowing offsets before any data is read is what lets two
checkpoints be compared in milliseconds and mixed in a few megabytes of memory.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, cast

from ftlib.errors import IntegrityError, ModelError
from ftlib.model_folder import weight_files

FLOATING = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes of an element, by the format's name of its type: these can be mixed."""
ITEM_BYTES = {**FLOATING, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
"""The same of every type that is read; others are packed or unknown."""
_LARGEST_HEADER = 100_000_000  # the format's own limit


@dataclass(frozen=True)
class Span:
    """One tensor's place: `bytes` bytes at `offset` of `file`, counted from the file's first byte."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    bytes: int

    @property
    def kind(self) -> tuple[str, tuple[int, ...]]:
        """What must agree between two tensors that are mixed: dtype and shape."""
        return self.dtype, self.shape


@dataclass(frozen=True)
class TensorFile:
    """One safetensors file: its header as bytes, and its tensors in the order they lie in."""

    path: Path
    header: bytes
    spans: tuple[Span, ...]
    size: int


def tensor_files(folder: Path) -> tuple[TensorFile, ...]:
    """Read the headers of a model folder's files.

    Raises ModelError for a header that is not one, IntegrityError for a file that is shorter than its header says.
    """
    return tuple(_read_header(path) for path in weight_files(folder))


def tensor_spans(folder: Path) -> dict[str, Span]:
    """Return every tensor of a model folder by name, in the order of the files.

    Raises what `tensor_files` raises, and ModelError for a name that two files have.
    """
    found: dict[str, Span] = {}
    for span in (span for file in tensor_files(folder) for span in file.spans):
        if span.name in found:
            raise ModelError(f"{folder}: tensor {span.name!r} is in {found[span.name].file.name} and {span.file.name}")
        found[span.name] = span
    return found


def _read_header(path: Path) -> TensorFile:
    with path.open("rb") as stream:
        prefix = stream.read(8)
        size = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 0 < size <= _LARGEST_HEADER:
            raise ModelError(f"{path} is not a safetensors file: its header claims {size} bytes")
        header = prefix + stream.read(size)
    try:
        entries = cast("dict[str, dict[str, Any]]", json.loads(header[8:]))
        entries.pop("__metadata__", None)
        spans = [_span(path, name, entry, len(header)) for name, entry in entries.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is not a safetensors file: {error!r}") from error
    spans.sort(key=lambda span: (span.offset, span.name))
    end = max((span.offset + span.bytes for span in spans), default=len(header))
    if path.stat().st_size < end:
        raise IntegrityError(f"{path} has {path.stat().st_size} bytes, its header needs {end}: it was cut off")
    return TensorFile(path, header, tuple(spans), end)


def _span(path: Path, name: str, entry: dict[str, Any], data_start: int) -> Span:
    first, last = entry["data_offsets"]
    span = Span(name, entry["dtype"], tuple(entry["shape"]), path, data_start + first, last - first)
    size = ITEM_BYTES[span.dtype] * prod(span.shape) if span.dtype in ITEM_BYTES else span.bytes
    if first < 0 or span.bytes != size:
        raise ValueError(f"tensor {name!r} has {span.bytes} bytes, its shape needs {size}")
    return span
