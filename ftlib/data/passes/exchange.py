"""Files that one pass leaves for the next, in a folder that every worker sees; a killed call leaves none."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from ftlib.fingerprint import file_digest
from ftlib.storage import Place, Store, open_store

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


_PIECE = 8 << 20


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
            array.tofile(stream)

    def slice_of(self, name: str, dtype: type[np.generic], start: int, stop: int) -> NDArray[Any]:
        """Return a slice of an array."""
        import numpy as np

        with self.path(name).open("rb") as stream:
            return np.fromfile(stream, dtype, stop - start, offset=start * np.dtype(dtype).itemsize)


def part_of(hashes: NDArray[np.uint64], parts: int) -> NDArray[np.int64]:
    """Return which of so many parts each hash goes to."""
    import numpy as np

    return (hashes % np.uint64(parts)).astype(np.int64)


class StoredExchange(Exchange):
    """Such files in a bucket, where machines share no folder; what is read whole is copied to this one's disk first."""

    def __init__(self, folder: Path, place: Place, tag: str) -> None:
        super().__init__(folder)
        self._place = place
        self._tag = tag
        self._pid = 0

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_place": self._place, "_tag": self._tag, "_pid": 0}

    def _at(self, name: str) -> str:
        return f"{self._tag}/{name}"

    def _opened(self) -> Store:
        """Return the store; a call in another process opens its own, and has a folder of its own."""
        if self._pid != os.getpid():
            self._store = open_store(self._place)
            self._own = tempfile.TemporaryDirectory(prefix="reglage-rows-")
            self.folder = Path(self._own.name)
            self._pid = os.getpid()
        return self._store

    @contextmanager
    def writing(self, name: str) -> Generator[IO[bytes]]:
        """Write a file, which is there once the block has ended; of two calls that write the same, one stays."""
        store, local = self._opened(), self.folder / uuid4().hex
        try:
            with local.open("wb") as stream:
                yield stream
            store.put_file(local, self._at(name), file_digest(local))
        finally:
            local.unlink(missing_ok=True)

    def path(self, name: str) -> Path:
        """Return a copy of a file on this machine."""
        store, local = self._opened(), self.folder / name
        if not local.exists():
            unfinished = local.with_name(uuid4().hex)
            with unfinished.open("wb") as stream:
                start = 0
                while data := store.read_range(self._at(name), start, _PIECE):
                    stream.write(data)
                    start += len(data)
            unfinished.replace(local)
        return local

    def part_bytes(self, dealt: Dealt, part: int) -> bytes:
        """Return the bytes of a part, which alone are asked for."""
        start, stop = dealt.span(part)
        return self._opened().read_range(self._at(dealt.name), start, stop - start) if stop > start else b""

    def slice_of(self, name: str, dtype: type[np.generic], start: int, stop: int) -> NDArray[Any]:
        """Return a slice of an array, which alone is asked for."""
        import numpy as np

        size = np.dtype(dtype).itemsize
        data = self._opened().read_range(self._at(name), start * size, (stop - start) * size)
        return np.frombuffer(data, dtype)

    def forget(self, *names: str) -> None:
        """Delete files that nobody reads any more."""
        store = self._opened()
        for name in names:
            store.discard(self._at(name))
            (self.folder / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Delete all files; a killed run leaves them under `exchange/` in the bucket."""
        self.forget(*self._opened().list(self._tag))
        self._own.cleanup()


@contextmanager
def exchange_in(folder: Path, place: Place | None = None) -> Generator[Exchange]:
    """Have an exchange while the block runs, below a folder or at a place in a bucket; its files are gone behind it."""
    if place is not None:
        stored = StoredExchange(folder, place, uuid4().hex)
        try:
            yield stored
        finally:
            stored.close()
        return
    own = folder / ".exchange"
    own.mkdir()
    try:
        yield Exchange(own)
    finally:
        shutil.rmtree(own, ignore_errors=True)
