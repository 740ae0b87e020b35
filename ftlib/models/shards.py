"""Published weights in shards whose borders depend on the tensors' names and sizes alone.

Two versions of one architecture are cut at the same places, so the shards of layers that training left alone have the
digests they had, and a registry that stores files by digest uploads the others only. A layer lies in one shard; heads
come last, so that a new label moves no border.
"""

from __future__ import annotations

import filecmp
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ftlib.errors import IntegrityError
from ftlib.models.folder import tensor_spans, weight_files
from ftlib.models.tensor_files import INDEX, TensorFile, TensorSpan, index_of, lay_out, shard_names

_CHUNK_BYTES = 1 << 20


def write_shards(folder: Path, most: int) -> None:
    """Cut a model folder's weights into safetensors of at most `most` bytes of tensors each, with transformers' index.

    One file stays one if it is small enough; a tensor that is larger than `most` gets a shard of its own. Streams:
    memory does not grow with the model, the folder needs room for the weights twice.
    """
    spans = tensor_spans(folder)
    shards = shard_layout(spans.values(), most)
    if len(shards) > 1 or len(weight_files(folder)) > 1:
        _write_shards(folder, shards, spans)


def _write_shards(folder: Path, shards: Sequence[Sequence[TensorSpan]], spans: Mapping[str, TensorSpan]) -> None:
    old = weight_files(folder)
    files = [lay_out(folder / name, shard) for name, shard in zip(shard_names(len(shards)), shards, strict=True)]
    for file in files:  # under another name until all are written: a new shard may have an old one's name
        write_copies(file, _unfinished(file), spans)
    for path in (*old, folder / INDEX):
        path.unlink(missing_ok=True)
    for file in files:
        _unfinished(file).rename(file.path)
    if len(files) > 1:
        (folder / INDEX).write_text(index_of(files) + "\n", encoding="utf-8")


def write_shared_shards(folders: Sequence[Path], most: int) -> None:
    """Cut the weights of models with one body so that the body lies in shards of its own, which are one file on disk.

    The body is what the largest module has in all of the folders. Shards of at most `most` bytes each, as of
    `write_shards`; where the disk has no hard links each folder keeps its copy. Raises IntegrityError for bodies that
    differ.
    """
    spans = [tensor_spans(folder) for folder in folders]
    top = _order_of_tops(spans[0].values())[0]
    body = {name for name in spans[0] if name.partition(".")[0] == top and all(name in each for each in spans)}
    for folder, each in zip(folders, spans, strict=True):
        shared, own = ([span for name, span in each.items() if (name in body) is inside] for inside in (True, False))
        shards = [shard for part in (shared, own) if part for shard in shard_layout(part, most)]
        _write_shards(folder, shards, each)
    count = len(shard_layout([spans[0][name] for name in body], most))
    for folder in folders[1:]:
        for first, copy in zip(weight_files(folders[0])[:count], weight_files(folder)[:count], strict=True):
            _link(first, copy)


def _link(first: Path, copy: Path) -> None:
    if not filecmp.cmp(first, copy, shallow=False):
        raise IntegrityError(f"{copy} and {first} hold one body and differ; train these tasks again")
    link = copy.with_name(f"{copy.name}.part")
    try:
        link.hardlink_to(first)
    except OSError:  # no links here: the copy stays
        return
    link.rename(copy)


def shard_layout(spans: Iterable[TensorSpan], most: int) -> list[list[TensorSpan]]:
    """Return which tensors lie together: layers in their order, as many per shard as fit into `most` bytes."""
    shards: list[list[TensorSpan]] = [[]]
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
    return shards


def _layers(spans: Sequence[TensorSpan]) -> Iterator[list[TensorSpan]]:
    """Yield tensors of one layer together, the body (the largest part of the model) first."""
    tops = _order_of_tops(spans)

    def order(span: TensorSpan) -> tuple[int, list[tuple[int, str]], str]:
        return tops.index(span.name.partition(".")[0]), _natural(_layer(span.name)), span.name

    for _, layer in itertools.groupby(sorted(spans, key=order), key=lambda span: _layer(span.name)):
        yield list(layer)


def _order_of_tops(spans: Iterable[TensorSpan]) -> list[str]:
    """Return the model's top modules, the largest first."""
    tops: dict[str, int] = {}
    for span in spans:
        top = span.name.partition(".")[0]
        tops[top] = tops.get(top, 0) + span.bytes
    return sorted(tops, key=lambda top: (-tops[top], top))


def _layer(name: str) -> str:
    """Return `bert.encoder.layer.3` for everything in that layer, else the tensor's module."""
    numbered = re.match(r".*?\.[0-9]+(?=\.)", name)
    return numbered[0] if numbered else name.rpartition(".")[0]


def _natural(text: str) -> list[tuple[int, str]]:
    """Make layer 10 come after layer 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in text.split(".")]


def _unfinished(file: TensorFile) -> Path:
    return file.path.with_name(f"{file.path.name}.part")


def write_copies(file: TensorFile, path: Path, sources: Mapping[str, TensorSpan]) -> None:
    """Write a file that is laid out to `path`, each tensor's bytes from where `sources` has them by its name there."""
    with path.open("wb") as target:
        target.write(file.header)
        for span in file.spans:
            for data in _bytes(sources[span.name]):
                target.write(data)


def _bytes(span: TensorSpan) -> Iterator[bytes]:
    with span.file.open("rb") as source:
        source.seek(span.offset)
        left = span.bytes
        while left:
            data = source.read(min(left, _CHUNK_BYTES))
            if not data:
                raise IntegrityError(f"{span.file} is cut off inside tensor {span.name!r}; make it again")
            left -= len(data)
            yield data
