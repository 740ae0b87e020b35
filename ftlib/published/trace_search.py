"""By what a trace of rows is known in a file: their ids, and parts of their texts."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftlib.data.rows import ROW_ID, Value
from ftlib.published.row_index import contains, packed, read_row_index

if TYPE_CHECKING:
    import pyarrow as pa

_WEIGHTS = frozenset((".safetensors", ".bin", ".pt", ".pth", ".npy", ".distcp", ".lock", ".keys"))
"""Files that quote no row."""
_ID = re.compile(rb"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")
_QUOTE = 24
"""Letters in a row of a text by which a page that quotes it is found; a shorter text is found by its row's id alone."""
_RUN = re.compile(r"[^\W_]+(?: [^\W_]+)*")


@dataclass
class Search:
    """What a trace is known by."""

    rows: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict[str, set[str]](set))
    """By the digest of a key, the ids of the rows that have it: 32 hex digits."""
    quotes: set[bytes] = field(default_factory=set[bytes])
    """Parts of their texts, each of `_QUOTE` letters."""
    pairs: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    """The keys of pairs of answers that are made of a key, with the digests of those that are: by them versions know
    such rows."""

    @cached_property
    def ids(self) -> set[str]:
        """Return the ids of all the rows; it is asked for once all snapshots are read."""
        return {row for rows in self.rows.values() for row in rows}

    @staticmethod
    def reads(path: str) -> bool:
        """Say whether a file of this name can hold a trace: weights quote no row."""
        return Path(path).suffix not in _WEIGHTS

    def holds(self, path: Path) -> bool:
        """Say whether a file has a trace. One that is gone meanwhile, or can be no table, has none."""
        if not self.reads(path.name):
            return False
        try:
            if path.suffix == ".parquet":
                return self._in_parquet(path)
            if path.suffix == ".arrow":
                return self._in_arrow(path)
            if path.suffix == ".rows":
                return bool(self.ids) and bool(self._indexed(path))
            return self.in_text(path.read_bytes())
        except FileNotFoundError:
            return False

    def _in_parquet(self, path: Path) -> bool:
        import pyarrow as pa
        from pyarrow import parquet

        try:
            table = parquet.ParquetFile(path)
        except pa.ArrowException:
            return self.in_text(path.read_bytes())
        name = _id_column(table.schema_arrow)
        if name is None:
            return False
        batches = table.iter_batches(columns=[name], use_threads=False)
        return any(self._among(batch.column(0).to_pylist()) for batch in batches)

    def _in_arrow(self, path: Path) -> bool:
        import pyarrow as pa

        with pa.memory_map(str(path)) as source:
            try:
                table = pa.ipc.open_file(source)
            except pa.ArrowException:
                return False
            name = _id_column(table.schema)
            if name is None:
                return False
            return any(
                self._among(table.get_batch(i).column(name).to_pylist()) for i in range(table.num_record_batches)
            )

    def _among(self, row_ids: Iterable[Any]) -> bool:
        return any(str(row_id)[:32] in self.ids for row_id in row_ids)  # a piece's number follows the id

    def _indexed(self, path: Path) -> bool:
        return bool(path.stat().st_size) and bool(contains(read_row_index(path), packed(sorted(self.ids))).any())

    def in_text(self, data: bytes) -> bool:
        """Say whether a text has a row's id, or part of its text."""
        if any(match[0].decode() in self.ids for match in _ID.finditer(data)):
            return True
        if len(self.quotes) <= 64:
            return any(quote in data for quote in self.quotes)
        return any(data[i : i + _QUOTE] in self.quotes for i in range(len(data) - _QUOTE + 1))

    def quote(self, value: Value) -> None:
        """Take a row's value: runs of letters, which stand in JSON and in HTML as they are."""
        if isinstance(value, str):
            runs = [run.encode() for run in _RUN.findall(value) if len(run.encode()) >= _QUOTE and run.isascii()]
            self.quotes |= {run[:_QUOTE] for run in runs[:4]} | {run[-_QUOTE:] for run in runs[-1:]}
        elif isinstance(value, dict):
            for one in value.values():
                self.quote(one)
        elif isinstance(value, list):
            for one in value:
                self.quote(one)


def _id_column(schema: pa.Schema) -> str | None:
    return next((name for name in (ROW_ID, "row_id") if name in schema.names), None)
