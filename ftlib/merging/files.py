"""A merge written as a model folder: the reference's shards or new ones, whole or not there at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from pydantic import JsonValue
from torch import Tensor

from ftlib.config import Config
from ftlib.errors import BusyError, ModelError
from ftlib.merging.engine import CHUNK_BYTES, stream
from ftlib.merging.plan import MergePlan, PlannedTensor
from ftlib.merging.recorded import MERGE_RECORD
from ftlib.models.folder import PROCESSOR_FILES, digest_of_tensors, tensor_files
from ftlib.models.shards import shard_layout
from ftlib.models.tensor_files import INDEX, TensorFile, index_of, lay_out, shard_names
from ftlib.storage.files import flush, flush_folder, local_errors

BESIDE = ("config.json", "generation_config.json", "processor_config.json")
WORKERS = 2
"""The arithmetic alone is bound by memory and gains nothing from a second worker; the sha256 beside it does."""


class Merged(Config):
    """What was written."""

    folder: str
    files: tuple[str, ...]
    tensors: int
    copied: int
    """Tensors that are byte copies of an input's."""
    bytes: int
    weights: str
    """The digest of the tensors, as `ftlib.models.folder.weights_digest` gives it; hashed while writing."""
    warnings: tuple[str, ...]


def write_merge(
    plan: MergePlan,
    out: Path,
    *,
    shard_bytes: int | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    workers: int = WORKERS,
    record: Mapping[str, JsonValue] | None = None,
) -> Merged:
    """Write the result to the folder `out`, which must not exist or be empty, in the reference's shards.

    `shard_bytes` makes new shards of at most so many bytes, but at least one tensor. Config and tokenizer are the
    reference's; `record` is written beside them as merge.json, with the digest of the result. `out` appears by one
    rename after everything is on the disk; a failure or a kill leaves nothing that can be seen, and the next attempt
    starts afresh. Raises ModelError if `out` has anything in it, BusyError if another process is writing it,
    StorageError for a full or read-only disk, and what `stream` raises.
    """
    layout = _layout(plan, out, shard_bytes)
    with local_errors(out, sum(file.size for file in layout)), new_model_folder(out) as work:
        sink = _FileSink(work, layout)
        with sink:
            warnings = stream(plan, sink.take, chunk_bytes=chunk_bytes, workers=workers)
        source = plan.inputs[plan.reference].folder
        beside = [name for name in (*BESIDE, *PROCESSOR_FILES) if (source / name).is_file()]
        for name in beside:
            _write_flushed(work / name, (source / name).read_bytes())
        if shard_bytes is None and (source / INDEX).is_file():
            _write_flushed(work / INDEX, (source / INDEX).read_bytes())
        elif len(layout) > 1:
            _write_flushed(work / INDEX, index_of(layout).encode())
        weights = sink.digest(plan.tensors)
        if record is not None:
            _write_flushed(work / MERGE_RECORD, json.dumps({**record, "weights": weights}, indent=2).encode() + b"\n")
        names = tuple(sorted(path.name for path in work.iterdir()))
    return Merged(
        folder=str(out.absolute()),
        files=names,
        tensors=len(plan.tensors),
        copied=sum(not planned.mixes for planned in plan.tensors),
        bytes=sum(file.size for file in layout),
        weights=weights,
        warnings=(*plan.warnings, *warnings),
    )


class _FileSink:
    """Writes chunks to their places and hashes them on the way."""

    def __init__(self, folder: Path, layout: Sequence[TensorFile]) -> None:
        self._folder = folder
        self._layout = layout
        self._stack = ExitStack()
        self._places: dict[str, tuple[int, int]] = {}
        self._hashes = {span.name: hashlib.sha256() for file in layout for span in file.spans}

    def __enter__(self) -> None:
        for file in self._layout:
            descriptor = os.open(self._folder / file.path.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            self._stack.callback(os.close, descriptor)
            if file.size:
                os.posix_fallocate(descriptor, 0, file.size)  # a full disk is found now, not after the last tensor
            _write_all(descriptor, memoryview(file.header), 0)
            self._places |= {span.name: (descriptor, span.offset) for span in file.spans}

    def __exit__(self, failure: object, *_: object) -> None:
        if failure is None:
            for descriptor in {descriptor for descriptor, _ in self._places.values()}:
                os.fsync(descriptor)
        self._stack.close()

    def take(self, planned: PlannedTensor, first: int, values: Tensor) -> None:
        """Write elements of a tensor from the given one on, and hash them; they come in order (`Sink`)."""
        descriptor, offset = self._places[planned.name]
        data = values.view(torch.uint8).numpy().data
        _write_all(descriptor, data, offset + first * values.element_size())
        self._hashes[planned.name].update(data)

    def digest(self, tensors: Iterable[PlannedTensor]) -> str:
        """Return the digest of the tensors."""
        return digest_of_tensors((t.name, t.dtype, t.shape, self._hashes[t.name].hexdigest()) for t in tensors)


def _layout(plan: MergePlan, out: Path, shard_bytes: int | None) -> list[TensorFile]:
    """Return the files that the result will have in `out`: the reference's, or new ones, cut where a version's are."""
    if shard_bytes is None:
        return [replace(file, path=out / file.path.name) for file in tensor_files(plan.inputs[plan.reference].folder)]
    shards = shard_layout((planned.spans[plan.reference] for planned in plan.tensors), shard_bytes)
    return [lay_out(out / name, shard) for name, shard in zip(shard_names(len(shards)), shards, strict=True)]


@contextmanager
def new_model_folder(out: Path) -> Generator[Path]:
    """Give a folder that becomes `out` if the block succeeds. What a killed attempt left of it is removed first.

    Raises ModelError if `out` has anything in it, BusyError if another process is writing it.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ModelError(f"{out} exists already and is not empty; a merge is written to a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    work = out.with_name(f".{out.name}.partial")
    with _locked_folder(work):
        for leftover in work.iterdir():
            leftover.unlink()
        try:
            yield work
            flush_folder(work)
            if out.is_dir():
                out.rmdir()  # it is empty, or this fails
            work.rename(out)
            flush_folder(out.parent)
        finally:
            shutil.rmtree(work, ignore_errors=True)


@contextmanager
def scratch_beside(out: Path) -> Generator[Path]:
    """Give a hidden folder on `out`'s disk while the block runs; what a killed one left there is removed first.

    Raises BusyError if another process has it.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    work = out.with_name(f".{out.name}.scratch")
    with _locked_folder(work):
        for leftover in work.iterdir():
            shutil.rmtree(leftover)
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _locked_folder(folder: Path) -> Generator[None]:
    """Make a folder and hold it; the kernel lets go of it when this process ends, however it ends."""
    while True:
        folder.mkdir(exist_ok=True)
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # renamed by its owner just now
            continue
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
                raise BusyError(f"another process is writing {folder}; wait for it or choose another folder") from None
            if folder.exists() and os.fstat(descriptor).st_ino == folder.stat().st_ino:
                yield
                return
        finally:
            os.close(descriptor)


def _write_flushed(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        flush(file)


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count
