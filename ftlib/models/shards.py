"""Published weights in shards whose borders depend on the tensors' names and sizes alone.

Two versions of one architecture are cut at the same places, so the shards of layers that training left alone have the
digests they had, and a registry that stores files by digest uploads the others only. A layer lies in one shard; heads
come last, so that a new label moves no border.
"""

from __future__ import annotations

import itertools
import json
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ftlib.errors import IntegrityError
from ftlib.models.folder import tensor_spans, weight_files
from ftlib.models.tensor_files import ITEM_BYTES, Span

INDEX = "model.safetensors.index.json"
_CHUNK_BYTES = 1 << 20


def write_shards(folder: Path, most: int) -> None:
    """Cut a model folder's weights into safetensors of at most `most` bytes of tensors each, with transformers' index.

    One file stays one if it is small enough; a tensor that is larger than `most` gets a shard of its own. Streams:
    memory does not grow with the model, the folder needs room for the weights twice.
    """
    spans = tensor_spans(folder)
    shards = shard_layout(spans.values(), most)
    old = weight_files(folder)
    if len(shards) == len(old) == 1:
        return
    names = [f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)]
    names = names if len(names) > 1 else ["model.safetensors"]
    for name, shard in zip(names, shards, strict=True):
        _write(folder / f"{name}.part", shard)
    for path in (*old, folder / INDEX):
        path.unlink(missing_ok=True)
    for name in names:
        (folder / f"{name}.part").rename(folder / name)
    if len(names) > 1:
        (folder / INDEX).write_text(_index(names, shards), encoding="utf-8")


def shard_layout(spans: Iterable[Span], most: int) -> list[list[Span]]:
    """Return which tensors lie together: layers in their order, as many per shard as fit into `most` bytes."""
    shards: list[list[Span]] = [[]]
    size = 0
    for layer in _layers(list(spans)):
        parts = [layer] if sum(span.bytes for span in layer) <= most else [[span] for span in layer]
        for part in parts:
            more = sum(span.bytes for span in part)
            if shards[-1] and size + more > most:
                shards.append([])
                size = 0
            shards[-1] += part
            size += more
    return [sorted(shard, key=_place) for shard in shards]


def _layers(spans: Sequence[Span]) -> Iterator[list[Span]]:
    """Yield tensors of one layer together, the body (the largest part of the model) first."""
    tops: dict[str, int] = {}
    for span in spans:
        top = span.name.partition(".")[0]
        tops[top] = tops.get(top, 0) + span.bytes

    def order(span: Span) -> tuple[int, str, list[tuple[int, str]], str]:
        top = span.name.partition(".")[0]
        return -tops[top], top, _natural(_layer(span.name)), span.name

    for _, layer in itertools.groupby(sorted(spans, key=order), key=lambda span: _layer(span.name)):
        yield list(layer)


def _layer(name: str) -> str:
    """Return `bert.encoder.layer.3` for everything in that layer, else the tensor's module."""
    numbered = re.match(r".*?\.[0-9]+(?=\.)", name)
    return numbered[0] if numbered else name.rpartition(".")[0]


def _natural(text: str) -> list[tuple[int, str]]:
    """Make layer 10 come after layer 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in text.split(".")]


def _place(span: Span) -> tuple[int, str]:
    """The format wants every tensor aligned to its own size: the widest first."""
    return -ITEM_BYTES.get(span.dtype, 0), span.name


def _write(path: Path, shard: Sequence[Span]) -> None:
    ends = list(itertools.accumulate(span.bytes for span in shard))
    entries = {
        span.name: {"dtype": span.dtype, "shape": list(span.shape), "data_offsets": [end - span.bytes, end]}
        for span, end in zip(shard, ends, strict=True)
    }
    header = json.dumps(
        {"__metadata__": {"format": "pt"}, **entries}, separators=(",", ":"), ensure_ascii=False
    ).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as target:
        target.write(struct.pack("<Q", len(header)) + header)
        for span in shard:
            for data in _bytes(span):
                target.write(data)


def _bytes(span: Span) -> Iterator[bytes]:
    with span.file.open("rb") as source:
        source.seek(span.offset)
        left = span.bytes
        while left:
            data = source.read(min(left, _CHUNK_BYTES))
            if not data:
                raise IntegrityError(f"{span.file} is cut off inside tensor {span.name!r}; make it again")
            left -= len(data)
            yield data


def _index(names: Sequence[str], shards: Sequence[Sequence[Span]]) -> str:
    where = {span.name: name for name, shard in zip(names, shards, strict=True) for span in shard}
    total = sum(span.bytes for shard in shards for span in shard)
    return json.dumps({"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}, indent=2) + "\n"
