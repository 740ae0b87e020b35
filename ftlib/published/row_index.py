"""Which rows a model was made from, in 16 bytes a row: what a version carries to answer that without its data.

    lineage/<dataset>/<split>.rows    the row ids (ingestion's 32 hex digits) as 16 bytes each, sorted
    lineage/<dataset>/<split>.keys    the same for the rows' own keys, each hashed with the dataset's salt

Files of equal rows are equal bytes, so a registry stores what did not change once. Neither text nor key can be read
from them; but whoever has a row or a key can ask whether it is there, so they are as private as the model itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ftlib.config import Config, Split
from ftlib.data.datasets import PreparedDataset, RawDataset
from ftlib.data.identity import IDENTITY, Version, visible
from ftlib.data.prepared import split_file
from ftlib.data.row_keys import row_key, stored_keys
from ftlib.data.rows import Value
from ftlib.data.snapshot import read_column, read_origins

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FOLDER = "lineage"
ROWS, KEYS = "rows", "keys"
_WIDTH = 16
_BATCH = 10_000


class RowIndex(Config):
    """What of one dataset is indexed in a version."""

    splits: dict[Split, int]
    """Distinct rows by split; `train` only if some phase trained on the dataset."""
    key: str | None = None
    """The column of the rows' own keys; None: there are no `.keys` files."""
    salt: str = ""
    """What keys are hashed with: the salt of the dataset's split."""
    identity: Version = 1
    """By which version of identity keys were told apart; records of before there were several do not say."""

    def key_bytes(self, value: Value) -> tuple[bytes, ...]:
        """Return all that may stand for a key in the `.keys` files; nothing if it is no key, or there are none."""
        return () if self.key is None else tuple(_hashed(text, self.salt) for text in stored_keys(value, self.identity))


def index_file(dataset: str, split: Split, kind: str) -> str:
    """Return a file's path in a version."""
    return f"{FOLDER}/{dataset}/{split}.{kind}"


def row_id_bytes(row_id: str) -> bytes | None:
    """Return what stands for a row in the `.rows` files; None for a text that is no row id."""
    try:
        data = bytes.fromhex(visible(row_id))
    except ValueError:
        return None
    return data if len(data) == _WIDTH else None


def write_row_index(
    folder: Path,
    name: str,
    prepared: PreparedDataset,
    raw: RawDataset,
    splits: Iterable[Split],
    key: str | None,
    salt: str,
) -> RowIndex:
    """Write the files of one dataset below a version's folder. Costs 16 bytes a row, 32 with a key, while it works."""
    rows: dict[Split, NDArray[np.bytes_]] = {}
    for split in splits:
        if len(ids := rows_of(prepared, split)):
            rows[split] = ids
    for split, ids in rows.items():
        _write(folder / index_file(name, split, ROWS), ids)
    if key is not None:
        for split, hashes in _keys(raw, key, salt, rows).items():
            _write(folder / index_file(name, split, KEYS), hashes)
    counts: dict[Split, int] = {split: len(ids) for split, ids in rows.items()}
    return RowIndex(splits=counts, key=key, salt=salt if key else "", identity=IDENTITY)


def rows_of(prepared: PreparedDataset, split: Split) -> NDArray[np.bytes_]:
    """Return the ids of a split's rows, each once, sorted; a text that was cut into pieces is one row."""
    import pyarrow as pa

    packed = bytearray()
    with pa.memory_map(str(split_file(prepared.path, split))) as source:
        table = pa.ipc.open_file(source)
        for i in range(table.num_record_batches):
            packed += _packed(table.get_batch(i).column("row_id").to_pylist())
    return _sorted(packed)


def packed(row_ids: Iterable[str]) -> NDArray[np.bytes_]:
    """Return row ids, or those of pieces of rows, as 16 bytes each in their order."""
    return _unsorted(_packed(row_ids))


def rows_from(raw: RawDataset, files: Collection[int] | None = None) -> NDArray[np.bytes_]:
    """Return the ids of a snapshot's rows, or those of some files by their places, each once, sorted."""
    origins = read_origins(raw.path / "rows.parquet")
    return _sorted(bytearray(_packed(row_id for row_id, file in origins if files is None or file in files)))


def read_row_index(path: Path) -> NDArray[np.bytes_]:
    """Open an index file as a sorted array, mapped from the disk: looking one row up reads some pages of it."""
    import numpy as np

    return np.memmap(path, dtype=f"S{_WIDTH}", mode="r")


def contains(index: NDArray[np.bytes_], wanted: NDArray[np.bytes_] | bytes) -> NDArray[np.bool_]:
    """Say which of the wanted are in a sorted array."""
    import numpy as np

    asked = np.atleast_1d(np.asarray(wanted, dtype=f"S{_WIDTH}"))
    if not len(index):
        return np.zeros(len(asked), np.bool_)
    places = np.searchsorted(index, asked)
    return index[np.minimum(places, len(index) - 1)] == asked


def _keys(
    raw: RawDataset, column: str, salt: str, rows: Mapping[Split, NDArray[np.bytes_]]
) -> dict[Split, NDArray[np.bytes_]]:
    """Return the hashed keys of the rows of each split, sorted."""
    keys: dict[Split, bytearray] = {split: bytearray() for split in rows}
    pairs = read_column(raw.path / "rows.parquet", column)
    while batch := list(islice(pairs, _BATCH)):
        ids = _unsorted(_packed([row_id for row_id, _ in batch]))
        for split, index in rows.items():
            for i in contains(index, ids).nonzero()[0]:
                keys[split] += _hashed(row_key(batch[i][1]) or "", salt)
    return {split: _sorted(hashes) for split, hashes in keys.items()}


def _hashed(key: str, salt: str) -> bytes:
    secret = hashlib.sha256(salt.encode()).digest()
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=_WIDTH, key=secret).digest()


def _packed(row_ids: Iterable[str]) -> bytes:
    return bytes.fromhex("".join(row_id[: 2 * _WIDTH] for row_id in row_ids))  # a piece's number follows the id


def _unsorted(data: bytes | bytearray) -> NDArray[np.bytes_]:
    import numpy as np

    # S16 compares as bytes do; numpy drops trailing zero bytes only where it shows an element, not in what it stores
    return np.frombuffer(data, dtype=f"S{_WIDTH}")


def _sorted(data: bytearray) -> NDArray[np.bytes_]:
    import numpy as np

    return np.unique(_unsorted(data))


def _write(path: Path, index: NDArray[np.bytes_]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    index.tofile(path)
