"""What all sources have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from ftlib.config import Config
from ftlib.data.listed import FileVersion, ListedFile, PinnedAlready
from ftlib.data.rows import BadRow, Passed, Row


class SourceBase(Config, ABC):
    """Bytes to rows: `list` says what is there, `pin` freezes it, `read` reads what was pinned."""

    @property
    def hub_name(self) -> str | None:
        """Return the dataset's name on the Hugging Face hub, if the rows come from there: what a model card links."""
        return None

    @property
    def image_columns(self) -> tuple[str, ...]:
        """Return the columns whose cells are images (`ftlib.data.images.cells`): ingestion looks whether they are."""
        return ()

    @property
    def package(self) -> str | None:
        """Return the optional package that it needs."""
        return None

    @property
    def group_column(self) -> str | None:
        """Return the column by which rows must be split, where one row is made of what others hold too."""
        return None

    @property
    def made_of(self) -> str | None:
        """Return what the rows are made of, where another dataset may make other rows of it; they are split alike."""
        return None

    @property
    def gives_chats(self) -> bool:
        """Say whether what is asked is a list of turns in every row, which formats of texts do not read."""
        return False

    def column_hint(self, column: str) -> str:
        """Return, to be added to a message, what of the source makes a column that lacks or says one thing only."""
        return ""

    @abstractmethod
    def list(self) -> tuple[ListedFile, ...]:
        """List what is there without reading it. Raises DataError if there is nothing."""

    @abstractmethod
    def pin(
        self, listed: Sequence[ListedFile] | None = None, known: PinnedAlready | None = None
    ) -> tuple[FileVersion, ...]:
        """Freeze a listing, by default that of now. `known` has the sha256 of files that were read before."""

    def apart(self, files: Sequence[FileVersion]) -> tuple[FileVersion, ...]:
        """Return the files whose rows can be read apart from those of others, in the order of `read`; none: no rows."""
        return ()

    def cuts(self, file: FileVersion) -> bool:
        """Say whether such a file can be read in ranges of lines, too."""
        return False

    @abstractmethod
    def read(self, files: tuple[FileVersion, ...], row_bytes: int) -> Iterator[Row | BadRow | Passed]:
        """Yield the pinned files' rows; a row of more than `row_bytes` is a bad one. Raises DataError for others."""
