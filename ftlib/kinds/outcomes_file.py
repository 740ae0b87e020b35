"""A table of outcomes from its file, whatever its kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

from ftlib.config import BatchKind
from ftlib.errors import StorageError
from ftlib.kinds.kind import KINDS
from ftlib.kinds.outcomes.base import SLICE, Outcomes


def read_outcomes(path: Path) -> Outcomes:
    """Read a table that `to_parquet` wrote. Raises StorageError if it is gone or damaged."""
    import pyarrow as pa

    try:
        return parse_outcomes(path.read_bytes())
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise StorageError(
            f"{path} is not a table of outcomes ({type(error).__name__}); delete it and the `evaluate` folder under "
            "the work folder's stages/, and run again"
        ) from error


def parse_outcomes(data: bytes) -> Outcomes:
    """Return the table that `to_parquet` made. Raises what pyarrow raises for other bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.ParquetFile(pa.BufferReader(data)).read()
    about = table.schema.metadata or {}
    kind = cast(BatchKind, about[b"kind"].decode())
    slices = [name for name in table.column_names if name.startswith(SLICE)]
    common = {
        "row_ids": tuple(table["row_id"].to_pylist()),
        "nll": table["nll"].to_numpy(),
        "targets": table["targets"].to_numpy(),
        "slices": {name.removeprefix(SLICE): tuple(table[name].to_pylist()) for name in slices},
    }
    return KINDS[kind].outcomes.read(table, json.loads(about[b"header"]), common)
