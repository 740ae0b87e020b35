"""Files that one pass leaves for the next, in a folder that every worker sees; a killed call leaves none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Dealt(NamedTuple):
    """Records that a call has written by part."""

    name: str
    ends: tuple[int, ...]
    """Where each part ends, in bytes."""

    def span(self, part: int) -> tuple[int, int]:
        """Return where a part begins and ends."""
        return (self.ends[part - 1] if part else 0), self.ends[part]


class Exchange:
    """A folder of such files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def writing(self, name: str) -> Generator[IO[bytes]]:
        """Write a file, which is there once the block has ended; of two calls that write the same, one stays."""
        unfinished = self.folder / f".{name}.{uuid4().hex}"
        try:
            with unfinished.open("wb") as stream:
                yield stream
            os.replace(unfinished, self.folder / name)
        finally:
            unfinished.unlink(missing_ok=True)

    def path(self, name: str) -> Path:
        """Return where a file is."""
        return self.folder / name

    def forget(self, *names: str) -> None:
        """Delete files that nobody reads any more: room on the disk is for what follows."""
        for name in names:
            (self.folder / name).unlink(missing_ok=True)

    def deal(self, name: str, records: NDArray[np.void], part: NDArray[np.int64], parts: int) -> Dealt:
        """Write records ordered by the part that each goes to; within a part they stay in order."""
        import numpy as np

        order = np.argsort(part, kind="stable")
        with self.writing(name) as stream:
            stream.write(records[order].tobytes())
        ends = np.cumsum(np.bincount(part, minlength=parts)) * records.dtype.itemsize
        return Dealt(name, tuple(ends.tolist()))

    def deal_bytes(self, name: str, parts: Iterable[bytes]) -> Dealt:
        """Write the bytes of every part."""
        ends: list[int] = []
        with self.writing(name) as stream:
            for data in parts:
                stream.write(data)
                ends.append(len(data) + (ends[-1] if ends else 0))
        return Dealt(name, tuple(ends))

    def part_bytes(self, dealt: Dealt, part: int) -> bytes:
        """Return the bytes of a part."""
        start, stop = dealt.span(part)
        with self.path(dealt.name).open("rb") as stream:
            stream.seek(start)
            return stream.read(stop - start)

    def part(self, dealt: Dealt, part: int, dtype: np.dtype[np.void]) -> NDArray[np.void]:
        """Return the records of a part."""
        import numpy as np

        return np.frombuffer(self.part_bytes(dealt, part), dtype)

    def gathered(self, all_dealt: Sequence[Dealt], part: int, dtype: np.dtype[np.void]) -> NDArray[np.void]:
        """Return the records of a part that all calls of a pass have written, in the order of the calls."""
        import numpy as np

        return np.concatenate([np.zeros(0, dtype), *(self.part(dealt, part, dtype) for dealt in all_dealt)])

    def write_array(self, name: str, array: NDArray[Any]) -> None:
        """Write an array of which calls read slices."""
        with self.writing(name) as stream:
            stream.write(memoryview(array).cast("B"))

    def slice_of(self, name: str, dtype: type[np.generic], start: int, stop: int) -> NDArray[Any]:
        """Return a slice of an array."""
        import numpy as np

        with self.path(name).open("rb") as stream:
            return np.fromfile(stream, dtype, stop - start, offset=start * np.dtype(dtype).itemsize)


def part_of(hashes: NDArray[np.uint64], parts: int) -> NDArray[np.int64]:
    """Return which of so many parts each hash goes to."""
    import numpy as np

    return (hashes % np.uint64(parts)).astype(np.int64)


@contextmanager
def exchange_in(folder: Path) -> Generator[Exchange]:
    """Have an exchange while the block runs; its files are gone behind it."""
    own = folder / ".exchange"
    own.mkdir()
    try:
        yield Exchange(own)
    finally:
        shutil.rmtree(own, ignore_errors=True)
