"""Pieces of files that every rank has some of, written where the first rank's disk is.

Where all ranks see one folder, each writes its own into the files. Else those of the others travel to the first rank,
one rank after the other and some MiB at a time, so that nobody holds more than that beside its shard. The other way,
each rank uploading its pieces and somebody putting them together, moves every byte three times: the file's digest is
that of its whole, so whoever puts it together has to read it all again, and to upload it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from ftlib.training.group import Group

Target = Callable[[Path, memoryview, int], None]
"""Writes bytes into a file that is there, from a byte on."""
_END = -1


@contextmanager
def writing() -> Generator[Target]:
    """Give what writes bytes into files that are there, and puts them onto the disk when the block ends."""
    opened: dict[Path, int] = {}

    def write(path: Path, data: memoryview, offset: int) -> None:
        if path not in opened:
            opened[path] = os.open(path, os.O_WRONLY)
        while data:
            count = os.pwrite(opened[path], data[: 2**30], offset)
            data, offset = data[count:], offset + count

    try:
        yield write
        for descriptor in opened.values():
            os.fsync(descriptor)
    finally:
        for descriptor in opened.values():
            os.close(descriptor)


@contextmanager
def writing_together(group: Group, files: Sequence[Path]) -> Generator[Target]:
    """Give what writes this rank's pieces of files, which are on the first rank's disk; collective.

    `files` are all that are written to, in an order that every rank has.
    """
    if group.one_disk or group.world_size == 1:
        with writing() as target:
            yield target
    elif group.is_first:
        heard = False
        try:
            with writing() as target:
                yield target
                heard = True
                _receive(group, files, target)
        finally:
            if not heard:  # our own part failed: the others' must have an end all the same
                _receive(group, files, _drop)
    else:
        places = {path: number for number, path in enumerate(files)}

        def send(path: Path, data: memoryview, offset: int) -> None:
            _send_number(group, [places[path], offset, len(data)])
            if len(data):
                dist.send(torch.from_numpy(np.frombuffer(data, np.uint8).copy()).to(group.device), 0)

        try:
            yield send
        finally:
            _send_number(group, [_END, 0, 0])


def _receive(group: Group, files: Sequence[Path], target: Target) -> None:
    """Write what the others send, to the end: one that is not heard would wait for ever."""
    failure: OSError | None = None
    for rank in range(1, group.world_size):
        while True:
            header = torch.empty(3, dtype=torch.int64, device=group.device)
            dist.recv(header, rank)
            number, offset, count = header.tolist()
            if number == _END:
                break
            data = torch.empty(count, dtype=torch.uint8, device=group.device)
            if count:
                dist.recv(data, rank)
            try:
                if failure is None:
                    target(files[number], data.cpu().numpy().data, offset)
            except OSError as error:
                failure = error
    if failure:
        raise failure


def _send_number(group: Group, numbers: list[int]) -> None:
    dist.send(torch.tensor(numbers, dtype=torch.int64, device=group.device), 0)


def _drop(path: Path, data: memoryview, offset: int) -> None:
    """Write nothing."""
