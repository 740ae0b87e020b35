"""How much a file may unpack to, and whether it is still the one that was pinned."""

from __future__ import annotations

from ftlib.data.listed import FileVersion
from ftlib.errors import DataError

_FREE_BYTES = 64 << 20
"""What any file may unpack to, whatever its own size."""
_RATIO = 200
"""Beyond that, how many times its own size. Rows shrink 5 to 20 times, repeated log lines 100; a bomb 1000 times."""


class Budget:
    """Counts unpacked bytes until they are far more than the file could honestly hold."""

    def __init__(self, file: FileVersion) -> None:
        self._file = file
        self._left = _FREE_BYTES + _RATIO * file.bytes

    def take(self, count: int) -> None:
        """Count more bytes. Raises DataError beyond the budget."""
        self._left -= count
        if self._left < 0:
            raise DataError(
                f"{self._file.uri} unpacks to more than {_RATIO} times its {self._file.bytes} bytes, which honest rows "
                "do not; if it is meant, give it unpacked"
            )


def compare(file: FileVersion, sha256: str) -> None:
    """Raise DataError if the bytes that were read are not those that were pinned."""
    if sha256 != file.sha256:
        raise DataError(
            f"{file.uri} changed while it was read: sha256 {sha256[:12]}, {file.sha256[:12]} when the run started; "
            "let no one write to it during a run, and run again"
        )
